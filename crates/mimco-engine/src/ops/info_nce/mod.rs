//! InfoNCE (van den Oord, Li and Vinyals 2018): cross entropy of cosine similarities over a
//! temperature. The keys are constants (of a momentum encoder or a frozen teacher).
//!
//! For row i with candidates C(i), q̂ = q / |q|, k̂ = k / |k| and positive p,
//!
//! loss = mean over i of -log( exp(q̂ᵢ·k̂ₚ / τ) / Σ over j in C(i) of exp(q̂ᵢ·k̂ⱼ / τ) ).
//!
//! Queries are in groups of equal size, each with its own candidates (image negatives: one group
//! for each image; batch negatives: one group).

mod cpu;
pub mod targets;

use crate::device::Device;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use targets::{ContrastiveTargets, Positive};

impl Tape<'_> {
    /// Computes the loss of queries [groups · rows, width] in f32.
    ///
    /// Returns the loss and the fraction of rows whose positive has the largest similarity (ties
    /// count for the positive), each of shape `[1]`. Without rows both are 0.
    ///
    /// # Panics
    /// If the sizes of the arguments do not match.
    pub fn info_nce(&mut self, queries: &Var, targets: &ContrastiveTargets<'_>) -> (Var, Tensor) {
        let (rows, width) = (queries.value.rows(), queries.value.width());
        let &[groups, candidates, key_width] = targets.keys.dims() else { panic!("keys are [groups, candidates, width]") };
        assert_eq!(width, key_width, "queries and keys of one width");
        assert!(rows == 0 || groups > 0 && rows.is_multiple_of(groups), "as many queries in each group");
        if rows > 0 {
            if let Some((row_ids, key_ids)) = targets.sample_ids {
                assert!(row_ids.len() == rows && key_ids.len() == candidates, "a sample id of each row and key");
            }
            match targets.positive {
                Positive::InKeys(indices) => assert_eq!(indices.len(), rows, "a target of each query"),
                Positive::Separate(positives) => {
                    assert!(positives.rows() == rows && positives.width() == width, "a positive of each query");
                }
            }
        }
        match self.device() {
            Device::Cpu => cpu::info_nce(self, queries, targets),
        }
    }
}
