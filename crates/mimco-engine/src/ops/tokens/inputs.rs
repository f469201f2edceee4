//! Parameters and masks of the token assembly.

use crate::parameters::ParameterId;
use std::sync::Arc;

/// Tokens in front of the patches.
#[derive(Clone, Copy)]
pub struct Prefix {
    /// Class token [1, 1, width].
    pub class: ParameterId,
    /// Registers [1, R, width] (Darcet et al. 2023).
    pub registers: Option<ParameterId>,
}

/// Mask token and the patches that it replaces.
#[derive(Clone)]
pub struct Masked {
    /// Mask token [1, 1, width].
    pub token: ParameterId,
    /// Whether each patch is masked, [batch · patches].
    pub masked: Arc<[bool]>,
}

impl Masked {
    /// Row of each of `count` patches among the visible ones; `None` for masked patches.
    pub(super) fn visible_rows(masked: Option<&Masked>, count: usize) -> Vec<Option<usize>> {
        let is_masked = |position: usize| masked.is_some_and(|m| m.masked[position]);
        let mut visible = 0..;
        (0..count).map(|position| if is_masked(position) { None } else { visible.next() }).collect()
    }
}
