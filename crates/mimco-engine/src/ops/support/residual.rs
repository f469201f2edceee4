//! How a branch joins the residual stream.

use super::drop_path::DropPath;
use crate::parameters::ParameterId;

/// Factors of a branch in y = r + s γ ⊙ branch; by default both are 1.
#[derive(Clone, Copy, Default)]
pub struct Residual<'a> {
    /// γ `[outputs]` of LayerScale (Touvron et al. 2021).
    pub gamma: Option<ParameterId>,
    /// The images that keep the branch. The branch has only their rows.
    pub drop_path: Option<&'a DropPath>,
}
