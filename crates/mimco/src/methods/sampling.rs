//! Random choices without replacement.

use mimco_data::random::{Rng, below};

/// Chooses `count` of `0..n`, in increasing order; all of them where there are no more.
pub(super) fn choose(n: usize, count: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    if n > count {
        for i in 0..count {
            let other = i + below(rng, n - i);
            all.swap(i, other);
        }
        all.truncate(count);
        all.sort_unstable();
    }
    all
}
