//! The state of a feature queue in checkpoints.

use super::method::{ReadState, StateArray};
use crate::Error;
use mimco_engine::ops::{FeatureQueue, QueueState};

/// Returns the arrays of a queue; none if it is empty. f32 is exact for integers up to 2^24, so sample
/// ids and the position are stored in halves of 16 bits.
pub(super) fn arrays(queue: &FeatureQueue) -> Vec<StateArray> {
    let Some(QueueState { features, sample_ids, next }) = queue.state() else { return Vec::new() };
    let count = sample_ids.len();
    let high_halves: Vec<f32> = sample_ids.iter().map(|&id| (id >> 16) as f32).collect();
    let low_halves: Vec<f32> = sample_ids.iter().map(|&id| (id & 0xffff) as f32).collect();
    let next = vec![(next >> 16) as f32, (next & 0xffff) as f32];
    let array = |name: &str, shape: Vec<usize>, data| StateArray { name: format!("queue.{name}"), shape, data };
    vec![
        array("features", vec![count, queue.width()], features),
        array("owners_high", vec![count], high_halves),
        array("owners_low", vec![count], low_halves),
        array("next", vec![2], next),
    ]
}

/// Restores a queue from the arrays that [`arrays`] returned.
///
/// # Errors
/// Arrays that do not fit each other or the queue.
pub(super) fn restore(queue: &mut FeatureQueue, read: ReadState<'_>) -> Result<(), Error> {
    if queue.capacity() == 0 {
        return Ok(());
    }
    // 0 accepts any number of elements: the queue may have been empty or partly filled.
    let [high, low] = read("queue.next", 0)?[..] else { return Ok(()) };
    let next = ((high as usize) << 16) | low as usize;
    let (highs, lows) = (read("queue.owners_high", 0)?, read("queue.owners_low", 0)?);
    let sample_ids: Vec<u64> = highs.iter().zip(&lows).map(|(&high, &low)| ((high as u64) << 16) | low as u64).collect();
    let features = read("queue.features", sample_ids.len() * queue.width())?;
    queue.restore(QueueState { features, sample_ids, next }).map_err(|what| {
        Error::Training(format!("the checkpoint's queue does not fit mimco.queue_size ({what}); use --overwrite to start anew"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mimco_engine::Tensor;

    #[test]
    fn a_restored_queue_continues_as_the_saved_one() {
        let finite = Tensor::scalar(1.0);
        let push = |queue: &mut FeatureQueue, values: &[f32], ids: &[u32]| {
            queue.push(&Tensor::from_slice([ids.len(), 2], values), ids, &finite);
        };
        let mut queue = FeatureQueue::new(3, 2);
        assert!(arrays(&queue).is_empty());
        push(&mut queue, &[1.0, 1.5, 2.0, 2.5], &[70_000, 2]);
        push(&mut queue, &[3.0, 3.5, 4.0, 4.5], &[3, 4]);
        let saved = arrays(&queue);
        let mut read = |name: &str, _: usize| Ok(saved.iter().find(|a| a.name == name).map_or(Vec::new(), |a| a.data.clone()));
        let mut other = FeatureQueue::new(3, 2);
        restore(&mut other, &mut read).unwrap();
        for queue in [&mut queue, &mut other] {
            push(queue, &[5.0, 5.5], &[5]);
        }
        assert_eq!(queue.sample_ids(), [4, 5, 3]);
        assert_eq!((other.sample_ids(), &other.keys().to_host()[..]), (queue.sample_ids(), &queue.keys().to_host()[..]));
        assert!(restore(&mut FeatureQueue::new(2, 2), &mut read).is_err());
    }
}
