//! Training: one loop for everything that trains, with its run folder, checkpoints and metrics.

pub mod checkpoint;
mod console;
mod environment;
mod identity;
mod images;
mod info;
pub mod metrics;
mod monitor;
mod pretrain;
mod run_folder;
mod setup;
mod summary;
mod throughput;
mod train;

pub use images::{Images, open_images};
pub use pretrain::{Outcome, Run, pretrain};
pub use run_folder::RunFolder;
pub use summary::Summary;
