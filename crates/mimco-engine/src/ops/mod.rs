//! The operators, one folder each: `mod.rs` has the formula, the checks and the choice of the
//! device, `cpu.rs` the kernels.

mod attention;
mod batch_norm;
mod info_nce;
mod l1;
mod layer_norm;
mod linear;
mod linear_residual;
mod mean_cosine;
mod mean_square;
mod mean_tokens;
mod mlp;
mod norm_linear;
mod patch_embed;
mod queue;
mod scale;
mod select_rows;
mod support;
mod tokens;
mod weighted_sum;

pub use batch_norm::running::RunningStatistics;
pub use info_nce::targets::{ContrastiveTargets, Positive};
pub use layer_norm::layer_norm_plain;
pub use queue::{FeatureQueue, QueueState};
pub use support::drop_path::DropPath;
pub use support::layer::{Activation, Layer};
pub use support::norm::Norm;
pub use support::residual::Residual;
pub use tokens::inputs::{Masked, Prefix};
