//! Shared parts of the operators.

pub mod cpu;
pub mod drop_path;
pub mod layer;
pub mod norm;
pub mod offsets;
pub mod residual;
