//! The operators, one a file: what it computes, its forward, its backward, its tests.

mod attention;
mod batch_norm;
mod info_nce;
mod l1;
mod linear;
mod patch_embed;
mod select_rows;
mod support;
mod tokens;
mod weighted_sum;

pub use batch_norm::cpu::RunningStatistics;
pub use support::drop_path::DropPath;
pub use info_nce::cpu::{Candidates, Contrast};
pub use support::cpu::layer::{Activation, Layer};
pub use support::cpu::norm::{Norm, layer_norm_plain};
pub use support::residual::Residual;
pub use tokens::cpu::{Masked, Prefix};

/// The rows of a packed tensor by image: image i owns `offsets[i]..offsets[i + 1]`, all of them together every row.
fn check_offsets(offsets: &[usize], rows: usize) {
    let whole = offsets.first() == Some(&0) && offsets.last() == Some(&rows);
    assert!(whole && offsets.is_sorted(), "the images' offsets go from 0 to the number of rows");
}
