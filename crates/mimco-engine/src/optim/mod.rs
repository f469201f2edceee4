//! Optimizers, gradient clipping and the momentum encoder's update. Each is one pass over a model's
//! flat memory, with the table of learning-rate and decay factors.
//!
//! A step runs on the device without a host read: [`finite_flag`] computes whether loss and
//! gradient are finite, and the updates do nothing if they are not.

mod cpu;
pub(crate) mod rule;

use crate::cpu::flag::is_set;
use crate::device::{Device, Memory};
use crate::gradients::Gradients;
use crate::parameters::Parameters;
use crate::tensor::Tensor;
use std::borrow::Cow;

pub use rule::Rule;

/// An optimizer with its moments, which have the layout of the parameters.
pub struct Optimizer {
    rule: Rule,
    weight_decay: f32,
    /// Moments by name: `m` and `v` of AdamW, `momentum` of SGD.
    moments: Vec<(&'static str, Memory)>,
    steps: u64,
}

impl Optimizer {
    /// Returns an optimizer before its first step, on the device of the parameters.
    pub fn new(rule: Rule, weight_decay: f32, parameters: &Parameters) -> Optimizer {
        let names: &[&str] = match rule {
            Rule::AdamW { .. } => &["m", "v"],
            Rule::Sgd { .. } => &["momentum"],
        };
        let moments = names.iter().map(|&name| (name, Memory::zeros(parameters.device(), parameters.flat_len()))).collect();
        Optimizer { rule, weight_decay, moments, steps: 0 }
    }

    /// Returns the names of the moments.
    pub fn moment_names(&self) -> impl Iterator<Item = &'static str> {
        self.moments.iter().map(|(name, _)| *name)
    }

    /// Copies the moments to the host, each with its name, for a checkpoint; on the CPU borrows
    /// them. [`Entry::range`](crate::Entry::range) indexes them.
    pub fn moments_to_host(&self) -> impl Iterator<Item = (&'static str, Cow<'_, [f32]>)> {
        self.moments.iter().map(|(name, memory)| (*name, memory.to_host(0..memory.len())))
    }

    /// Lets the host change the moment of this name, to restore a checkpoint.
    ///
    /// # Panics
    /// If the rule has no such moment.
    pub fn update_moment_on_host(&mut self, name: &str, update: impl FnOnce(&mut [f32])) {
        let Some((_, memory)) = self.moments.iter_mut().find(|(n, _)| *n == name) else { panic!("no moment {name}") };
        memory.update_on_host(0..memory.len(), update);
    }

    /// Number of updates so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the number of updates, to restore a checkpoint.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// Updates the parameters once, if `finite` is 1; else changes nothing, the number of updates
    /// included.
    ///
    /// `rate` is the learning rate, which each entry's own factor multiplies. Gradients are clipped
    /// to the norm `max_norm`, given their norm `norm`; a `max_norm` of 0 turns clipping off.
    ///
    /// # Panics
    /// If the gradients do not have the layout of the parameters.
    pub fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, rate: f32, max_norm: f32, norm: &Tensor, finite: &Tensor) {
        assert_eq!(gradients.flat_len(), parameters.flat_len(), "gradients of other parameters");
        match parameters.device() {
            Device::Cpu => {
                if is_set(finite) {
                    self.steps += 1;
                    let clip = clip_factor(norm.data()[0], max_norm);
                    let moments = self.moments.iter_mut().map(|(_, memory)| &mut memory.cpu_mut()[..]).collect();
                    cpu::step(self.rule, self.weight_decay, parameters, moments, gradients.flat(), self.steps, rate, clip);
                }
            }
        }
    }
}

/// Returns the factor that reduces a gradient of norm `norm` to at most `max_norm`, as PyTorch's
/// `clip_grad_norm_`: 1 if `max_norm` is 0 (off), NaN if the norm is.
fn clip_factor(norm: f32, max_norm: f32) -> f32 {
    let factor = max_norm / (norm + 1e-6);
    if max_norm <= 0.0 || factor > 1.0 { 1.0 } else { factor }
}

/// Computes a flag of shape `[1]`: 1 if the norm and all losses, each of shape `[1]`, are finite,
/// else 0.
pub fn finite_flag(norm: &Tensor, losses: &[&Tensor]) -> Tensor {
    match norm.device() {
        Device::Cpu => cpu::finite_flag(norm, losses),
    }
}

/// Updates a momentum encoder, target = momentum · target + (1 - momentum) · source, if `finite` is
/// 1.
///
/// The whole flat memory of the target is updated. The source may have further parameters after it
/// (a predictor).
///
/// # Panics
/// If the source's flat memory is shorter than the target's.
pub fn momentum_update(target: &mut Parameters, source: &Parameters, momentum: f32, finite: &Tensor) {
    assert!(target.flat_len() <= source.flat_len(), "a source of at least the target's length");
    match target.device() {
        Device::Cpu => {
            if is_set(finite) {
                cpu::momentum_update(target.flat_mut(), source.flat(), momentum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clip_factor_reduces_and_never_enlarges() {
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert_eq!((clip_factor(0.5, 1.0), clip_factor(4.0, 0.0), clip_factor(0.0, 1.0)), (1.0, 1.0, 1.0));
        assert!(clip_factor(f32::NAN, 1.0).is_nan());
        assert_eq!(clip_factor(f32::INFINITY, 1.0), 0.0);
    }
}
