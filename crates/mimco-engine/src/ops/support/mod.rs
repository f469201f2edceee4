pub mod cpu;
pub mod drop_path;
pub mod residual;
