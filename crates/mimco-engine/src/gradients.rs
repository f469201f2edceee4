//! Gradients of a model's parameters, in one flat block of memory.

use crate::cpu::flat;
use crate::device::Memory;
use crate::parameters::{ParameterId, Parameters};
use crate::tensor::Tensor;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Gradients of a model's parameters, with the layout of the [`Parameters`] they were made for.
///
/// [`Tape::backward`](crate::Tape::backward) adds to them.
#[derive(Clone)]
pub struct Gradients {
    memory: Memory,
    /// Range of each parameter, in the order of the table.
    ranges: Arc<[Range<usize>]>,
}

impl Parameters {
    /// Allocates gradients of zeros for these parameters, on their device.
    pub fn gradients(&self) -> Gradients {
        let ranges = self.entries().iter().map(|entry| entry.range.clone()).collect();
        Gradients { memory: Memory::zeros(self.device(), self.flat_len()), ranges }
    }
}

impl Gradients {
    /// Length of the flat memory in elements.
    pub(crate) fn flat_len(&self) -> usize {
        self.memory.len()
    }

    /// Sets all gradients to zero.
    pub fn clear(&mut self) {
        match &mut self.memory {
            Memory::Cpu(buffer) => flat::clear(buffer),
        }
    }

    /// Computes the Euclidean norm of all gradients, a tensor of shape `[1]`. It is not finite if
    /// any element is not.
    pub fn norm(&self) -> Tensor {
        match &self.memory {
            Memory::Cpu(buffer) => Tensor::scalar(flat::norm(buffer)),
        }
    }

    /// Copies a parameter's gradient to the host; on the CPU borrows it.
    pub fn to_host(&self, id: ParameterId) -> Cow<'_, [f32]> {
        self.memory.to_host(self.ranges[id.index()].clone())
    }

    /// Copies all gradients to the host; on the CPU borrows them.
    /// [`Entry::range`](crate::Entry::range) indexes them.
    pub fn flat_to_host(&self) -> Cow<'_, [f32]> {
        self.memory.to_host(0..self.memory.len())
    }

    /// Lets the host change a parameter's gradient.
    pub fn update_on_host(&mut self, id: ParameterId, update: impl FnOnce(&mut [f32])) {
        self.memory.update_on_host(self.ranges[id.index()].clone(), update);
    }

    /// All gradients in main memory.
    pub(crate) fn flat(&self) -> &[f32] {
        self.memory.cpu()
    }

    /// A parameter's gradient in main memory, to write.
    pub(crate) fn get_mut(&mut self, id: ParameterId) -> &mut [f32] {
        let range = self.ranges[id.index()].clone();
        &mut self.memory.cpu_mut()[range]
    }
}
