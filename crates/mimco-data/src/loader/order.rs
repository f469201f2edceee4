//! The order of an epoch's samples: fully shuffled if samples are read one by one, or shuffled
//! within windows if they are read in groups.

use crate::random::{Purpose, keyed, permutation, shuffle};
use std::ops::Range;
use std::sync::Arc;

/// Samples that are read together: a row group, or neighbors in a remote shard.
pub(crate) struct Group {
    pub samples: Vec<u32>,
    pub bytes: u64,
}

/// An order of samples, and a schedule for reading groups ahead.
#[derive(Clone)]
pub(crate) struct Order {
    pub samples: Arc<[u32]>,
    /// For each group to read ahead: the position in the order at which it is read, and one of its
    /// samples.
    ahead: Arc<[(usize, u32)]>,
}

impl Order {
    /// Returns the samples in sequence.
    pub fn in_sequence(len: usize) -> Order {
        Order { samples: (0..len as u32).collect(), ahead: Arc::default() }
    }

    /// Returns the samples in random order.
    pub fn shuffled(len: usize, seed: u64, epoch: u64) -> Order {
        Order { samples: permutation(len, seed, Purpose::Order, epoch).into(), ahead: Arc::default() }
    }

    /// Returns an order of windows. A window is as many random groups as fit in `window` bytes (at
    /// least one), with their samples in random order. While the samples of a window are used, the
    /// groups of the next one are read, evenly spread.
    pub fn windowed(groups: Vec<Group>, window: u64, seed: u64, epoch: u64) -> Order {
        let mut windows: Vec<Vec<&Group>> = Vec::new();
        let mut filled = 0;
        let order = permutation(groups.len(), seed, Purpose::Groups, epoch);
        for group in order.iter().map(|&i| &groups[i as usize]) {
            match windows.last_mut() {
                Some(last) if filled + group.bytes <= window => last.push(group),
                _ => {
                    windows.push(vec![group]);
                    filled = 0;
                }
            }
            filled += group.bytes;
        }
        let (mut samples, mut ahead) = (Vec::new(), Vec::new());
        for (which, window) in windows.iter().enumerate() {
            let begin = samples.len();
            samples.extend(window.iter().flat_map(|group| &group.samples).copied());
            shuffle(&mut samples[begin..], &mut keyed(seed, Purpose::Order, epoch, which as u64 + 1));
            let next = windows.get(which + 1).map_or(&[][..], Vec::as_slice);
            let step = |i: usize| begin + i * (samples.len() - begin) / next.len();
            ahead.extend(next.iter().enumerate().filter_map(|(i, group)| Some((step(i), *group.samples.first()?))));
        }
        Order { samples: samples.into(), ahead: ahead.into() }
    }

    /// Returns one sample of each group to read while the samples at these positions are used.
    pub fn ahead(&self, positions: Range<usize>) -> impl Iterator<Item = u32> {
        let from = |position| self.ahead.partition_point(|&(at, _)| at < position);
        self.ahead[from(positions.start)..from(positions.end)].iter().map(|&(_, sample)| sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Returns 20 groups of 5 samples and 10 bytes.
    fn groups() -> Vec<Group> {
        (0..20).map(|g| Group { samples: (5 * g..5 * g + 5).collect(), bytes: 10 }).collect()
    }

    #[test]
    fn a_window_mixes_its_groups_and_no_others() {
        let order = Order::windowed(groups(), 40, 1, 2);
        let mut all = order.samples.to_vec();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        let groups_of = |window: &[u32]| window.iter().map(|s| s / 5).collect::<BTreeSet<_>>();
        let windows: Vec<_> = order.samples.chunks(20).collect();
        assert!(windows.iter().all(|window| groups_of(window).len() == 4));
        // Within a window the samples of a group are not consecutive.
        assert!(windows.iter().any(|window| window.chunks(5).any(|five| groups_of(five).len() > 2)));
        assert_ne!(order.samples, Order::windowed(groups(), 40, 1, 3).samples);
        assert_eq!(order.samples, Order::windowed(groups(), 40, 1, 2).samples);
    }

    #[test]
    fn the_groups_of_a_window_are_read_while_the_previous_one_is_used() {
        let order = Order::windowed(groups(), 40, 1, 2);
        assert_eq!(order.ahead(80..100).count(), 0, "nothing follows the last window");
        for (position, next) in (0..80).step_by(20).zip(order.samples.chunks(20).skip(1)) {
            let read: BTreeSet<u32> = order.ahead(position..position + 20).map(|s| s / 5).collect();
            assert_eq!(read, next.iter().map(|s| s / 5).collect());
            assert_eq!(order.ahead(position + 5..position + 10).count(), 1);
        }
    }

    #[test]
    fn a_group_larger_than_the_window_is_a_window() {
        let order = Order::windowed(groups(), 3, 0, 0);
        assert!(order.samples.chunks(5).all(|five| five.iter().map(|s| s / 5).collect::<BTreeSet<_>>().len() == 1));
    }
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_order_of_an_epoch_is_a_permutation(sizes in prop::collection::vec((0u32..9, 0u64..100), 0..12), window in 0u64..300, seed: u64, epoch: u64) {
            let mut groups: Vec<Group> = Vec::new();
            let mut len = 0;
            for (count, bytes) in sizes {
                groups.push(Group { samples: (len..len + count).collect(), bytes });
                len += count;
            }
            let all = (0..len).collect::<Vec<_>>();
            let shuffled = Order::shuffled(len as usize, seed, epoch);
            for order in [Order::windowed(groups, window, seed, epoch), shuffled, Order::in_sequence(len as usize)] {
                let mut samples = order.samples.to_vec();
                samples.sort_unstable();
                prop_assert_eq!(&samples, &all);
            }
        }
    }
}
