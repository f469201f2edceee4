//! What runs on the CPU: threads, recycled buffers, matrix products, vector maths.

pub mod buffer;
pub mod matmul;
pub mod number;
pub mod product;
pub mod threads;
pub mod vector;
