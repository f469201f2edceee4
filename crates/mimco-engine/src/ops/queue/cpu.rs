//! The features of a queue in main memory.

use crate::cpu::buffer::Buffer;
use crate::tensor::Tensor;

/// Appends features until the queue has `capacity`, then replaces the oldest.
pub(super) fn push(
    queue: &mut Buffer,
    (queue_ids, next): (&mut Vec<u64>, &mut usize),
    capacity: usize,
    features: &Tensor,
    sample_ids: &[u32],
) {
    let width = features.width();
    for (feature, &id) in features.data().chunks_exact(width).zip(sample_ids) {
        let filled = queue_ids.len();
        let position = if filled < capacity {
            queue.grow((filled + 1) * width);
            queue_ids.push(id as u64);
            filled
        } else {
            queue_ids[*next] = id as u64;
            *next
        };
        queue[position * width..][..width].copy_from_slice(feature);
        *next = (*next + 1) % capacity;
    }
}

/// Replaces all features.
pub(super) fn replace(queue: &mut Buffer, features: &[f32]) {
    *queue = Buffer::from_slice(features);
}
