//! The CPU: threads, recycled buffers, vector math and matrix products.

pub mod buffer;
pub(crate) mod flag;
pub(crate) mod flat;
pub mod gemm;
pub(crate) mod matmul;
pub(crate) mod rows;
pub mod simd;
pub mod threads;
pub mod vector;
