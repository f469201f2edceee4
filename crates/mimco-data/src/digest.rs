//! The 64-bit digest that identifies a dataset.

/// Fowler, Noll and Vo's hash (FNV-1a, 64 bits).
// Exports, checkpoints and packs store digests of datasets, so the algorithm must never change.
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Adds bytes to the digest.
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ byte as u64).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Returns the digest of all bytes added so far.
    pub fn value(&self) -> u64 {
        self.0
    }
}
