//! Pre-training of vision transformers on unlabelled images, in two stages. A contrastive teacher
//! (MoCo v3) comes first. Then a student sees masked images and reconstructs the frozen teacher's
//! features of the whole images (MimCo).
//!
//! The path of a batch: files, decoding and augmentation ([`mimco_data`]); teacher and student
//! ([`models`]); losses ([`methods`]); backward pass and optimizer ([`mimco_engine`]); checkpoint
//! ([`training`]). [`evaluation`] computes metrics of the features.

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
