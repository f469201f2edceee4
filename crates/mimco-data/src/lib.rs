//! Image datasets for pre-training: reading, decoding, augmentation and batched loading. The crate
//! has no dependency on tensors or models.
//!
//! The views of an image are a function of (seed, epoch, index) alone; they do not depend on the
//! number of worker threads.

pub mod atomic_file;
pub mod augment;
pub mod check;
pub mod dataset;
pub mod decode;
mod digest;
mod error;
pub mod loader;
pub mod pack;
mod path_names;
pub mod random;
mod storage;

pub use augment::{Filter, Planes};
pub use dataset::Dataset;
pub use decode::{Rgb, is_guarded};
pub use error::DataError;
