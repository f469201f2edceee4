//! The engine of `mimco`: tensors, a tape of coarse fused operators with hand-written backward
//! passes, and optimizers.
//!
//! The engine contains nothing about images or methods. A model keeps its weights in one flat block
//! of memory ([`Parameters`]). A [`Tape`] runs operators on [`Var`]s and, when recording, adds the
//! gradients of the weights to [`Gradients`] of the same layout.
//!
//! Elements stay on the [`Device`] of the parameters. The host reads and writes them only by
//! explicit copies, such as [`Tensor::to_host`] and [`Parameters::update_on_host`].
//!
//! Results do not depend on the number of threads. Work is split into blocks by its shape, each
//! block is computed by one thread, and partial sums are added in the order of the blocks.

pub mod cpu;
mod device;
mod element;
mod gradients;
pub mod ops;
pub mod optim;
mod parameters;
mod plain_product;
mod scalar;
mod tape;
mod tensor;

pub use device::Device;
pub use element::Precision;
pub use gradients::Gradients;
pub use parameters::{Entry, ParameterId, Parameters};
pub use plain_product::{PlainProduct, peak_flops};
pub use scalar::Scalar;
pub use tape::{Backpass, Tape, Var};
pub use tensor::{Shape, Tensor};
