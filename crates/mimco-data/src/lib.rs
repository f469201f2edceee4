//! Where images come from, decoding, augmentation and loading. Knows nothing of tensors on a tape.
//!
//! What an image becomes is a function of (seed, epoch, index) alone, whatever the number of workers.

mod affine;
mod archives;
pub mod augment;
mod blur;
mod cache;
pub mod check;
mod colour;
pub mod decode;
mod draws;
pub mod erasing;
mod error;
mod folders;
pub mod formats;
mod guard;
mod index;
mod jpeg;
pub mod loader;
pub mod mix;
#[cfg(feature = "object-store")]
mod object_stores;
mod opening;
mod order;
pub mod pack;
mod palette_tiff;
mod parquet;
mod patience;
#[cfg(test)]
mod pil_parity;
pub mod pipeline;
mod place;
mod planes;
pub mod rand_augment;
#[cfg(test)]
mod rand_augment_parity;
pub mod random;
mod remote;
#[cfg(all(test, feature = "object-store"))]
mod remote_tests;
mod resize;
mod shards;
pub mod source;
mod stored;
pub mod sums;
mod tones;
pub mod transform;
mod tree;

pub use decode::Rgb;
pub use error::DataError;
pub use guard::is_guarded;
pub use planes::Planes;
pub use resize::Filter;
pub use source::Dataset;
