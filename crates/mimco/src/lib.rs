//! Pre-training of vision transformers on unlabelled images in two stages: a contrastive teacher (MoCo v3), then MimCo, a student that sees
//! a masked image and reconstructs the frozen teacher's features of the whole one.
//!
//! The way of a batch: files -> decode -> augment ([`mimco_data`]) -> teacher and student ([`models`]) -> losses ([`methods`]) -> backward ->
//! optimizer ([`mimco_engine`]) -> checkpoint ([`training`]). Figures of the features come from [`evaluation`].

pub mod bench;
pub mod demo;
mod error;
pub mod evaluation;
pub mod files;
pub mod interop;
pub mod methods;
pub mod models;
pub mod report;
mod schedule;
pub mod settings;
pub mod training;
pub mod values;

pub use error::Error;
