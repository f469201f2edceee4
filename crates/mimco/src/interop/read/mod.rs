//! Reading of checkpoints: file formats, layouts of names, and what the files leave open.

mod escape;
pub(super) mod layouts;
pub(super) mod positions;
pub(super) mod projects;
pub(super) mod resolve;
mod sidecar;
pub(super) mod tensor_map;
mod unsupported;
pub mod weights;

pub(super) use escape::printable;
