//! The operators, one a file: what it computes, its forward, its backward, its tests.

mod attention;
mod batch_norm;
mod info_nce;
mod l1;
mod layer_norm;
mod linear;
mod patch_embed;
mod pooling;
mod residual;
mod tokens;
mod weighted_sum;

pub use batch_norm::RunningStatistics;
pub use info_nce::{Candidates, Contrast};
pub use layer_norm::layer_norm_plain;
pub use linear::Activation;
pub use residual::DropPath;
pub use tokens::Masked;
