//! Shared parts of the kernels of the CPU.

pub mod affine;
pub mod branch;
pub mod column_sums;
pub mod norm;
pub mod output_grad;
