//! Random numbers by counter: a generator is named by (seed, purpose, epoch, index), never by the order of calls.

use rand_chacha::ChaCha8Rng;
pub use rand_chacha::rand_core::Rng;
use rand_chacha::rand_core::SeedableRng;

/// What a draw is for; purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Order of the samples in an epoch.
    Order,
    /// Which image takes the place of a broken one.
    Replace,
    /// Augmentation of view 0, 1, ...
    View(u8),
    /// Which patches are hidden.
    Mask,
    /// First weights.
    Init,
    /// Which branches drop path drops.
    DropPath,
    /// Which images are looked at while training.
    Probe,
    /// Which tokens are candidates of a loss.
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

/// The generator of this name: its 32-byte key is the four numbers.
pub fn keyed(seed: u64, purpose: Purpose, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (bytes, number) in key.chunks_exact_mut(8).zip([seed, purpose.number(), epoch, index]) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Uniform in [0, 1), 24 bits.
pub fn unit(rng: &mut impl Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}

/// Uniform in [low, high).
pub fn between(rng: &mut impl Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * unit(rng)
}

/// Uniform in 0..n (n at least 1); the bias of 64 bits modulo n is far below what can be seen.
pub fn below(rng: &mut impl Rng, n: usize) -> usize {
    (rng.next_u64() % n.max(1) as u64) as usize
}

/// 0..n in random order.
pub fn permutation(n: usize, seed: u64, purpose: Purpose, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    shuffle(&mut order, &mut keyed(seed, purpose, epoch, 0));
    order
}

/// Puts all into random order (Fisher and Yates).
pub fn shuffle<T>(all: &mut [T], rng: &mut impl Rng) {
    for i in (1..all.len()).rev() {
        all.swap(i, below(rng, i + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_numbers_and_another_name_others() {
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
    fn a_permutation_holds_every_number_once() {
        let mut order = permutation(1000, 7, Purpose::Order, 1);
        assert_ne!(order, permutation(1000, 7, Purpose::Order, 2));
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(i, &v)| i as u32 == v));
    }
}
