//! Where images come from, decoding, augmentation and loading. Knows nothing of tensors on a tape.
//!
//! What an image becomes is a function of (seed, epoch, index) alone, whatever the number of workers.

pub mod augment;
mod blur;
pub mod check;
mod colour;
pub mod decode;
mod error;
mod folders;
pub mod formats;
pub mod loader;
mod palette_tiff;
#[cfg(test)]
mod pil_parity;
mod planes;
pub mod random;
mod resize;
mod shards;
mod source;
pub mod transform;

pub use decode::Rgb;
pub use error::DataError;
pub use source::Dataset;
