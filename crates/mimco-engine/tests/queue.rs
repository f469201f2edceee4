//! The feature queue: order of replacement, skipped steps and checkpoints.

use mimco_engine::Tensor;
use mimco_engine::ops::{FeatureQueue, QueueState};
use proptest::prelude::*;

/// A feature of two elements made of a sample id.
fn feature(id: u32) -> [f32; 2] {
    [id as f32, id as f32 + 0.5]
}

fn push(queue: &mut FeatureQueue, ids: &[u32], finite: bool) {
    let features: Vec<f32> = ids.iter().flat_map(|&id| feature(id)).collect();
    queue.push(&Tensor::from_slice([ids.len(), 2], &features), ids, &Tensor::scalar(finite as u8 as f32));
}

#[test]
fn the_oldest_goes_first_and_a_checkpoint_restores_all() {
    let mut queue = FeatureQueue::new(3, 2);
    assert!(queue.is_empty() && queue.state().is_none());
    push(&mut queue, &[70_000, 2], true);
    assert_eq!((queue.keys().dims(), queue.sample_ids()), (&[1, 2, 2][..], &[70_000, 2][..]), "filled entries only");
    push(&mut queue, &[3, 4], true);
    assert_eq!(queue.sample_ids(), [4, 2, 3]);
    assert_eq!(*queue.keys().to_host(), [4.0, 4.5, 2.0, 2.5, 3.0, 3.5]);
    let state = queue.state().unwrap();
    let mut other = FeatureQueue::new(3, 2);
    other.restore(state.clone()).unwrap();
    push(&mut queue, &[5], true);
    push(&mut other, &[5], true);
    assert_eq!(queue.state(), other.state());
    assert!(FeatureQueue::new(2, 2).restore(state.clone()).unwrap_err().contains("capacity 2"));
    assert!(FeatureQueue::new(3, 4).restore(state).unwrap_err().contains("4 elements"));
}

#[test]
fn a_queue_of_capacity_0_stays_empty() {
    let mut queue = FeatureQueue::new(0, 2);
    push(&mut queue, &[1, 2], true);
    queue.restore(QueueState { features: vec![1.0, 1.5], sample_ids: vec![1], next: 1 }).unwrap();
    assert!(queue.is_empty() && queue.keys().dims() == [1, 0, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_queue_holds_the_last_features_of_finite_steps(
        capacity in 1usize..12,
        batches in prop::collection::vec((prop::collection::vec(0u32..1000, 0..6), any::<bool>()), 0..12),
    ) {
        let mut queue = FeatureQueue::new(capacity, 2);
        let mut pushed: Vec<u32> = Vec::new();
        for (ids, finite) in batches {
            push(&mut queue, &ids, finite);
            pushed.extend(ids.iter().filter(|_| finite));
        }
        // Position p holds the last feature whose number is p modulo the capacity.
        let filled = pushed.len().min(capacity);
        let last = |position: usize| pushed[(0..pushed.len()).rev().find(|i| i % capacity == position).unwrap()];
        let expected: Vec<u32> = (0..filled).map(last).collect();
        prop_assert_eq!(queue.sample_ids(), expected.iter().map(|&id| id as u64).collect::<Vec<_>>());
        prop_assert_eq!(queue.keys().to_host().to_vec(), expected.iter().flat_map(|&id| feature(id)).collect::<Vec<_>>());
    }
}
