//! A queue of past image features, the negatives beyond the batch. The teacher is frozen, so that
//! the features do not become outdated.

mod cpu;

use crate::cpu::flag::is_set;
use crate::device::{Device, Memory};
use crate::tensor::Tensor;

/// Features and the sample ids of their images. New features replace the oldest.
pub struct FeatureQueue {
    capacity: usize,
    width: usize,
    /// Filled features, [filled, width].
    features: Memory,
    sample_ids: Vec<u64>,
    /// Position of the feature to replace once the queue is full.
    next: usize,
}

/// Contents of a [`FeatureQueue`] on the host, for checkpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueState {
    /// Filled features, [filled, width].
    pub features: Vec<f32>,
    /// Sample id of each feature, `[filled]`.
    pub sample_ids: Vec<u64>,
    /// Number of features pushed so far, modulo the capacity.
    pub next: usize,
}

impl FeatureQueue {
    /// Returns an empty queue of at most `capacity` features of `width` elements, in main memory.
    /// With capacity 0 it remains empty.
    pub fn new(capacity: usize, width: usize) -> FeatureQueue {
        FeatureQueue { capacity, width, features: Memory::zeros(Device::Cpu, 0), sample_ids: Vec::new(), next: 0 }
    }

    /// Whether the queue has no feature yet.
    pub fn is_empty(&self) -> bool {
        self.sample_ids.is_empty()
    }

    /// Maximum number of features.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of elements of a feature.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Copies the features as one group of keys, [1, filled, width].
    pub fn keys(&self) -> Tensor {
        match &self.features {
            Memory::Cpu(features) => Tensor::from_slice([1, self.sample_ids.len(), self.width], features),
        }
    }

    /// Sample id of each feature, `[filled]`.
    pub fn sample_ids(&self) -> &[u64] {
        &self.sample_ids
    }

    /// Appends a batch's features [batch, width] with their sample ids `[batch]`, if `finite` is 1.
    ///
    /// # Panics
    /// If the features have another width, or not one sample id each.
    pub fn push(&mut self, features: &Tensor, sample_ids: &[u32], finite: &Tensor) {
        let fits = features.width() == self.width && features.rows() == sample_ids.len();
        assert!(fits, "features of the queue's width, with one sample id each");
        match &mut self.features {
            Memory::Cpu(queue) => {
                if self.capacity > 0 && is_set(finite) {
                    cpu::push(queue, (&mut self.sample_ids, &mut self.next), self.capacity, features, sample_ids);
                }
            }
        }
    }

    /// Copies the contents to the host, for a checkpoint. `None` if the queue is empty.
    pub fn state(&self) -> Option<QueueState> {
        (!self.is_empty()).then(|| QueueState {
            features: self.features.to_host(0..self.features.len()).into_owned(),
            sample_ids: self.sample_ids.clone(),
            next: self.next,
        })
    }

    /// Replaces the contents by those of a checkpoint. A queue of capacity 0 remains empty.
    ///
    /// # Errors
    /// If the state has more features than the capacity, or its arrays do not fit each other or the
    /// queue's width. The message contains the sizes; the queue is unchanged.
    pub fn restore(&mut self, state: QueueState) -> Result<(), String> {
        let QueueState { features, sample_ids, next } = state;
        let (filled, capacity) = (sample_ids.len(), self.capacity);
        if capacity == 0 {
            return Ok(());
        }
        if filled > capacity || next >= capacity {
            return Err(format!("a queue of {filled} features, the next at {next}, exceeds the capacity {capacity}"));
        }
        if features.len() != filled * self.width {
            return Err(format!("{} elements for {filled} features of {} elements", features.len(), self.width));
        }
        match &mut self.features {
            Memory::Cpu(queue) => cpu::replace(queue, &features),
        }
        (self.sample_ids, self.next) = (sample_ids, next);
        Ok(())
    }
}
