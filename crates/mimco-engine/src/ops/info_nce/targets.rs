//! Constants of an InfoNCE loss.

use crate::tensor::Tensor;

/// Where the positive key of each query is.
#[derive(Clone, Copy)]
pub enum Positive<'a> {
    /// `targets[i]` is the index of row i's positive among its group's keys.
    InKeys(&'a [u32]),
    /// Positives [rows, width] that are not among the keys; the keys are all negatives.
    Separate(&'a Tensor),
}

/// Keys and positives of an InfoNCE loss, all constants.
pub struct ContrastiveTargets<'a> {
    /// Keys [groups, candidates, width].
    pub keys: &'a Tensor,
    /// Positive of each query.
    pub positive: Positive<'a>,
    /// Sample ids of the rows and of one group's keys. A key with the row's own id is left out
    /// unless it is the row's positive.
    pub sample_ids: Option<(&'a [u64], &'a [u64])>,
    /// Temperature τ.
    pub temperature: f32,
}
