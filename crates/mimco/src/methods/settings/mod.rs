//! The settings of each method, one file a method.

pub mod mask;
pub mod mimco;
pub mod moco_v3;
pub(crate) mod rules;
