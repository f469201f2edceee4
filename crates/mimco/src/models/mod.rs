//! The models: vision transformers and the heads of the methods, with timm's parameter names.

pub mod arch;
pub mod backbone;
pub mod heads;
pub mod initialise;
pub mod overrides;
pub mod vit;
