//! Writing of exports, one file a target.

pub(super) mod hugging_face;
pub(super) mod model_card;
pub(super) mod onnx;
pub mod safetensors;
pub(super) mod tensors;
pub(super) mod timm;
