//! What runs on the CPU: threads, recycled buffers, matrix products, vector maths.

pub mod buffer;
pub mod gemm;
pub mod matmul;
pub mod threads;
pub mod vector;
