//! Weights in and out.

pub mod backbone;
pub mod safetensors;
