//! Reading of foreign checkpoints and writing of exports.

pub mod backbone;
pub mod convert;
pub mod info;
pub mod inspect;
pub mod read;
pub mod write;
