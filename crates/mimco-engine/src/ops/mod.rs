//! The operators, one a file: what it computes, its forward, its backward, its tests.

mod attention;
mod batch_norm;
mod drop_path;
mod info_nce;
mod l1;
mod layer;
mod layer_norm;
mod linear;
mod patch_embed;
mod pooling;
mod residual;
mod store;
mod tokens;
mod weighted_sum;

pub use batch_norm::RunningStatistics;
pub use drop_path::DropPath;
pub use info_nce::{Candidates, Contrast};
pub use layer::{Activation, Layer};
pub use layer_norm::{Norm, layer_norm_plain};
pub use residual::Residual;
pub use tokens::{Masked, Prefix};

/// The rows of a packed tensor by image: image i owns `offsets[i]..offsets[i + 1]`, all of them together every row.
fn check_offsets(offsets: &[usize], rows: usize) {
    let whole = offsets.first() == Some(&0) && offsets.last() == Some(&rows);
    assert!(whole && offsets.is_sorted(), "the images' offsets go from 0 to the number of rows");
}
