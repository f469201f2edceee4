//! The engine of `mimco`: tensors, a tape of coarse fused operators with hand-written backward passes, and optimizers.
//!
//! It knows nothing of images or methods. A model keeps its weights in one flat buffer ([`Parameters`]); a [`Tape`] runs
//! operators on [`Var`]s and, when recording, walks them back into a gradient buffer of the same layout.
//!
//! Results do not depend on the number of threads: work is cut into blocks by its shape alone, every block is computed by
//! one thread, and partial sums are added in the order of the blocks.

pub mod cpu;
pub mod element;
pub mod ops;
pub mod optim;
mod parameters;
mod tape;
mod tensor;

pub use cpu::matmul::Precision;
pub use parameters::{Entry, ParameterId, Parameters};
pub use tape::{Backpass, Tape, Var};
pub use tensor::{Shape, Tensor};
