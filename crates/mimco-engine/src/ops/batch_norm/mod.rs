//! Batch normalization in training mode (Ioffe and Szegedy 2015): y = (x - mean) / sqrt(var + eps)
//! of each column over the batch's own rows, with the biased variance.
//!
//! Weight, bias and ReLU are optional. Running statistics are updated as in PyTorch, with the
//! unbiased variance.

mod cpu;
pub mod running;

use crate::device::Device;
use crate::parameters::ParameterId;
use crate::tape::{Tape, Var};
use running::RunningStatistics;

impl Tape<'_> {
    /// Normalizes the columns of x [rows, width] in f32, with weight and bias `[width]` if `affine`
    /// is given. Updates `running`. Returns [rows, width] in f32.
    ///
    /// # Panics
    /// If the running statistics, the weight or the bias have another width.
    pub fn batch_norm(&mut self, x: &Var, affine: Option<(ParameterId, ParameterId)>, relu: bool, running: &mut RunningStatistics) -> Var {
        let (parameters, width) = (self.parameters(), x.value.width());
        assert_eq!(running.width(), width, "running statistics of another width");
        let fits = |id: ParameterId| parameters.entry(id).range.len() == width;
        assert!(affine.is_none_or(|(weight, bias)| fits(weight) && fits(bias)), "weight and bias of another width");
        match self.device() {
            Device::Cpu => cpu::batch_norm(self, x, affine, relu, running),
        }
    }
}
