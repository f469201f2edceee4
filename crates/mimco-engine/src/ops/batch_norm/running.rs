//! Running statistics of a batch normalization.

use crate::cpu::flag::is_set;
use crate::device::Device;
use crate::tensor::Tensor;
use std::borrow::Cow;

/// Mean and variance that inference would use in place of the batch's own.
///
/// [`Tape::batch_norm`](crate::Tape::batch_norm) updates them. [`RunningStatistics::settle`] then
/// keeps the updates of a step, or reverts them if the step is skipped.
#[derive(Clone)]
pub struct RunningStatistics {
    /// Mean `[width]`.
    pub(super) mean: Tensor,
    /// Unbiased variance `[width]`.
    pub(super) variance: Tensor,
    /// Mean and variance after the last settled step.
    settled: [Tensor; 2],
}

impl RunningStatistics {
    /// Returns mean 0 and variance 1 of `width` columns.
    pub fn new(width: usize) -> RunningStatistics {
        RunningStatistics::from_host(&vec![0.0; width], &vec![1.0; width])
    }

    /// Copies statistics from the host, for checkpoints. Both have the width's number of elements.
    ///
    /// # Panics
    /// If their lengths differ.
    pub fn from_host(mean: &[f32], variance: &[f32]) -> RunningStatistics {
        assert_eq!(mean.len(), variance.len(), "mean and variance of one width");
        let [mean, variance] = [mean, variance].map(|values| Tensor::from_slice([values.len()], values));
        RunningStatistics { settled: [mean.clone(), variance.clone()], mean, variance }
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.mean.width()
    }

    /// Copies the mean `[width]` to the host; on the CPU borrows it.
    pub fn mean_to_host(&self) -> Cow<'_, [f32]> {
        self.mean.to_host()
    }

    /// Copies the unbiased variance `[width]` to the host; on the CPU borrows it.
    pub fn variance_to_host(&self) -> Cow<'_, [f32]> {
        self.variance.to_host()
    }

    /// Keeps all updates since the last call if `finite` is 1, reverts them if it is 0.
    pub fn settle(&mut self, finite: &Tensor) {
        match finite.device() {
            // Clones share the elements, which the next update copies.
            Device::Cpu if is_set(finite) => self.settled = [self.mean.clone(), self.variance.clone()],
            Device::Cpu => [self.mean, self.variance] = self.settled.clone(),
        }
    }
}
