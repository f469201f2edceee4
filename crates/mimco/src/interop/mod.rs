//! Weights in and out: files of any known layout are read, others' tools' files are written.

pub mod backbone;
mod beside;
mod card;
pub mod convert;
pub mod facts;
mod hugging_face;
pub mod inspect;
pub mod layout;
mod onnx;
mod overrides;
mod positions;
mod refusals;
pub mod safetensors;
pub mod sources;
mod timm;
pub mod weights;
