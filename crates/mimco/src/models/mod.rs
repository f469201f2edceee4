//! The models: vision transformers with timm's parameter names, their tokens, and the methods' heads.

pub mod arch;
pub mod backbone;
pub mod heads;
pub mod initialize;
pub mod overrides;
pub mod tokens;
pub mod vit;
mod vit_config;
