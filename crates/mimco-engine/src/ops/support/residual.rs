//! How a branch joins the residual stream: y = r + s γ ⊙ branch. γ is LayerScale's (Touvron et al. 2021), s drop path's 1 / (1 - rate), for the rows
//! that drop path leaves the branch.

use crate::ops::support::drop_path::DropPath;
use crate::{ParameterId, Parameters, Tensor};

/// What stands between a branch and the stream; nothing by default.
#[derive(Clone, Copy, Default)]
pub struct Residual<'a> {
    /// LayerScale's γ `[outputs]`.
    pub gamma: Option<ParameterId>,
    /// Who keeps the branch; its rows are theirs alone.
    pub drop_path: Option<&'a DropPath>,
}

/// A branch's rows among those of the residual stream.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Branch<'a> {
    drop_path: Option<&'a DropPath>,
    stream: usize,
    gamma: Option<&'a [f32]>,
}

impl<'a> Branch<'a> {
    /// `stream` rows, of which drop path leaves some out.
    pub fn of(drop_path: Option<&'a DropPath>, stream: usize) -> Branch<'a> {
        if let Some(drop) = drop_path {
            let rising = drop.rows.is_sorted_by(|a, b| a < b) && drop.rows.last().is_none_or(|&last| last < stream);
            assert!(rising, "the rows that keep a branch rise, and are rows of the stream");
        }
        Branch { drop_path, stream, gamma: None }
    }

    /// The same with LayerScale.
    pub fn scaled(self, parameters: &'a Parameters, gamma: Option<ParameterId>) -> Branch<'a> {
        Branch { gamma: gamma.map(|gamma| parameters.get(gamma)), ..self }
    }

    /// γ of some columns.
    #[inline(always)]
    pub fn gamma(&self, column: usize, columns: usize) -> Option<&'a [f32]> {
        Some(&self.gamma?[column..][..columns])
    }

    /// Number of the branch's rows.
    pub fn len(&self) -> usize {
        self.drop_path.map_or(self.stream, |drop| drop.rows.len())
    }

    /// The stream's row that is the branch's row `row`.
    #[inline(always)]
    pub fn row(&self, row: usize) -> usize {
        self.drop_path.map_or(row, |drop| drop.rows[row])
    }

    /// Drop path's factor.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        self.drop_path.map_or(1.0, |drop| drop.scale)
    }

    /// The rows that are left out become what they are in `from`, or 0.
    pub fn leave_out(&self, from: Option<&Tensor>, to: &mut Tensor) {
        let Some(drop) = self.drop_path else { return };
        let width = to.width();
        let mut kept = drop.rows.iter().copied().peekable();
        for (row, to) in to.data_mut().chunks_exact_mut(width.max(1)).enumerate() {
            match (kept.next_if_eq(&row), from) {
                (Some(_), _) => {}
                (None, Some(from)) => to.copy_from_slice(&from.data()[row * width..][..width]),
                (None, None) => to.fill(0.0),
            }
        }
    }
}
