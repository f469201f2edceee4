//! Rows of a branch among those of the residual stream, and the factors of y = r + s γ ⊙ branch.

use crate::ops::support::drop_path::DropPath;
use crate::parameters::{ParameterId, Parameters};
use crate::tensor::Tensor;

/// Rows of a branch among those of the residual stream.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Branch<'a> {
    drop_path: Option<&'a DropPath>,
    /// Number of rows of the stream.
    stream: usize,
    gamma: Option<&'a [f32]>,
}

impl<'a> Branch<'a> {
    /// Describes a branch of a stream of `stream` rows. Panics if the rows of `drop_path` do not
    /// increase or are not rows of the stream.
    pub fn new(drop_path: Option<&'a DropPath>, stream: usize) -> Branch<'a> {
        if let Some(drop) = drop_path {
            let rising = drop.rows.is_sorted_by(|a, b| a < b) && drop.rows.last().is_none_or(|&last| last < stream);
            assert!(rising, "the rows that keep a branch increase, and are rows of the stream");
        }
        Branch { drop_path, stream, gamma: None }
    }

    /// Adds LayerScale's γ.
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

    /// Row of the stream that is row `row` of the branch.
    #[inline(always)]
    pub fn row(&self, row: usize) -> usize {
        self.drop_path.map_or(row, |drop| drop.rows[row])
    }

    /// Factor s of drop path.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        self.drop_path.map_or(1.0, |drop| drop.scale)
    }

    /// Sets the rows of `to` that skip the branch to those of `from`, or to 0.
    pub fn copy_skipped(&self, from: Option<&Tensor>, to: &mut Tensor) {
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
