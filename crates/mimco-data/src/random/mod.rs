//! Keyed random numbers: a generator is determined by (seed, purpose, epoch, index), never by the
//! order of calls.

pub(crate) mod distributions;

use rand_chacha::ChaCha8Rng;
pub use rand_chacha::rand_core::Rng;
use rand_chacha::rand_core::SeedableRng;

/// The purpose of a generator; purposes never share random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Order of the samples in an epoch.
    Order,
    /// Which image replaces a broken one.
    Replace,
    /// Augmentation of view 0, 1, ...
    View(u8),
    /// Which patches are masked.
    Mask,
    /// Initial weights.
    Init,
    /// Which branches are dropped by drop path.
    DropPath,
    /// Which images are evaluated during training.
    Probe,
    /// Which tokens are candidates of a contrastive loss.
    Candidates,
    /// Order of the groups that samples are read in.
    Groups,
}

impl Purpose {
    fn number(self) -> u64 {
        match self {
            Purpose::Order => 1,
            Purpose::Replace => 2,
            Purpose::Mask => 3,
            Purpose::Init => 4,
            Purpose::DropPath => 5,
            Purpose::Probe => 6,
            Purpose::Candidates => 7,
            Purpose::Groups => 8,
            Purpose::View(view) => 256 + view as u64,
        }
    }
}

/// Returns the generator of these four numbers, which form its 32-byte key.
pub fn keyed(seed: u64, purpose: Purpose, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (bytes, number) in key.chunks_exact_mut(8).zip([seed, purpose.number(), epoch, index]) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Returns a uniform number in [0, 1) with 24 bits.
pub fn unit(rng: &mut impl Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}

/// Returns a uniform number in [low, high).
pub fn between(rng: &mut impl Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * unit(rng)
}

/// Returns a uniform integer in 0..n, for n of at least 1. The bias of 64 bits modulo n is
/// negligible.
pub fn below(rng: &mut impl Rng, n: usize) -> usize {
    (rng.next_u64() % n.max(1) as u64) as usize
}

/// Returns 0..n in random order.
pub fn permutation(n: usize, seed: u64, purpose: Purpose, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    shuffle(&mut order, &mut keyed(seed, purpose, epoch, 0));
    order
}

/// Shuffles a slice by Fisher and Yates' method.
pub fn shuffle<T>(all: &mut [T], rng: &mut impl Rng) {
    for i in (1..all.len()).rev() {
        all.swap(i, below(rng, i + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_its_numbers_and_another_key_gives_others() {
        let draw = |seed, purpose, epoch, index| keyed(seed, purpose, epoch, index).next_u64();
        let first = draw(1, Purpose::Mask, 2, 3);
        assert_eq!(first, draw(1, Purpose::Mask, 2, 3));
        for other in
            [draw(2, Purpose::Mask, 2, 3), draw(1, Purpose::Order, 2, 3), draw(1, Purpose::Mask, 3, 3), draw(1, Purpose::Mask, 2, 4)]
        {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn a_permutation_contains_every_number_once() {
        let mut order = permutation(1000, 7, Purpose::Order, 1);
        assert_ne!(order, permutation(1000, 7, Purpose::Order, 2));
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(i, &v)| i as u32 == v));
    }
}
