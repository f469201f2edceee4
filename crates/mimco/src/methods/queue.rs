//! A queue of the teacher's past image features: negatives beyond the batch. The teacher is frozen, so they never grow stale.

use super::method::{ReadState, StateArray};
use crate::Error;
use mimco_engine::Tensor;

/// Features and the images that they are of, the oldest replaced first; only what was filled is there.
pub struct Queue {
    capacity: usize,
    width: usize,
    features: Vec<f32>,
    owners: Vec<u64>,
    next: usize,
}

impl Queue {
    /// An empty queue of at most `capacity` features of this width; none at capacity 0.
    pub fn new(capacity: usize, width: usize) -> Queue {
        Queue { capacity, width, features: Vec::new(), owners: Vec::new(), next: 0 }
    }

    /// Whether nothing is in it yet.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// The features as one group of keys, [1, filled, width].
    pub fn keys(&self) -> Tensor {
        Tensor::from_slice([1, self.owners.len(), self.width], &self.features)
    }

    /// Which image each feature is of, `[filled]`.
    pub fn owners(&self) -> &[u64] {
        &self.owners
    }

    /// Takes in a batch's features [batch, width].
    pub fn push(&mut self, features: &[f32], owners: &[u32]) {
        if self.capacity == 0 {
            return;
        }
        for (feature, &owner) in features.chunks_exact(self.width).zip(owners) {
            if self.owners.len() < self.capacity {
                self.features.extend_from_slice(feature);
                self.owners.push(owner as u64);
            } else {
                self.features[self.next * self.width..][..self.width].copy_from_slice(feature);
                self.owners[self.next] = owner as u64;
            }
            self.next = (self.next + 1) % self.capacity;
        }
    }

    /// For a checkpoint. Image numbers up to 2^24 are exact in f32; so they go in two halves.
    pub fn state(&self) -> Vec<StateArray> {
        let n = self.owners.len();
        if n == 0 {
            return Vec::new();
        }
        let halves = |f: fn(u64) -> u64| self.owners.iter().map(|&o| f(o) as f32).collect::<Vec<f32>>();
        let array = |name: &str, shape: Vec<usize>, data| StateArray { name: format!("queue.{name}"), shape, data };
        vec![
            array("features", vec![n, self.width], self.features.clone()),
            array("owners_high", vec![n], halves(|o| o >> 16)),
            array("owners_low", vec![n], halves(|o| o & 0xffff)),
            array("next", vec![2], vec![(self.next >> 16) as f32, (self.next & 0xffff) as f32]),
        ]
    }

    /// Takes back what [`Queue::state`] gave.
    ///
    /// # Errors
    /// A checkpoint whose arrays do not fit each other.
    pub fn restore(&mut self, read: ReadState<'_>) -> Result<(), Error> {
        if self.capacity == 0 {
            return Ok(());
        }
        // 0 asks for any size: the queue may not have been full, or begun.
        let next = read("queue.next", 0)?;
        let [high, low] = next[..] else { return Ok(()) };
        let (highs, lows) = (read("queue.owners_high", 0)?, read("queue.owners_low", 0)?);
        self.next = ((high as usize) << 16) | low as usize;
        self.owners = highs.iter().zip(&lows).map(|(&h, &l)| ((h as u64) << 16) | l as u64).collect();
        self.features = read("queue.features", self.owners.len() * self.width)?;
        if self.owners.len() > self.capacity || self.next >= self.capacity {
            return Err(Error::Training("the checkpoint's queue is larger than mimco.queue_size; use --overwrite to start anew".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_a_checkpoint_brings_all_back() {
        let mut queue = Queue::new(3, 2);
        assert!(queue.is_empty() && queue.state().is_empty());
        queue.push(&[1.0, 1.5, 2.0, 2.5], &[70_000, 2]);
        assert_eq!((queue.keys().dims(), queue.owners()), (&[1, 2, 2][..], &[70_000, 2][..]), "filled entries only");
        queue.push(&[3.0, 3.5, 4.0, 4.5], &[3, 4]);
        assert_eq!(queue.owners(), [4, 2, 3]);
        assert_eq!(queue.keys().data(), [4.0, 4.5, 2.0, 2.5, 3.0, 3.5]);
        let state = queue.state();
        let mut other = Queue::new(3, 2);
        let found = |name: &str, _| Ok(state.iter().find(|a| a.name == name).map_or(Vec::new(), |a| a.data.clone()));
        other.restore(&mut { found }).unwrap();
        queue.push(&[5.0, 5.5], &[5]);
        other.push(&[5.0, 5.5], &[5]);
        assert_eq!((queue.owners(), queue.keys().data()), (other.owners(), other.keys().data()));
        assert!(Queue::new(2, 2).restore(&mut { found }).is_err());
    }
}
