//! Recycled buffers. A training loop needs the same sizes every step, so it allocates nothing after
//! the second step and causes no page faults.

use bytemuck::{Pod, Zeroable};
use half::bf16;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

/// A cache line of 16 f32. Buffers start on a line, so that a vector load never crosses two.
#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Line([f32; 16]);

thread_local! {
    /// Free memory by its number of lines, for each thread, so that a block's scratch memory needs
    /// no lock. Buffers of tensors are allocated and dropped in the thread that runs the tape.
    static FREE: RefCell<BTreeMap<usize, Vec<Vec<Line>>>> = const { RefCell::new(BTreeMap::new()) };
}

/// A buffer of f32, aligned to 64 bytes. Dropping it returns it to the free list of the thread.
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// Returns a buffer of `len` elements with the values of an earlier use, or 0.
    pub fn uninit(len: usize) -> Buffer {
        let lines = len.div_ceil(16);
        let used = FREE.try_with(|free| free.borrow_mut().get_mut(&lines)?.pop()).ok().flatten();
        Buffer { lines: used.unwrap_or_else(|| vec![Line([0.0; 16]); lines]), len }
    }

    /// Returns a buffer of `len` zeros.
    pub fn zeros(len: usize) -> Buffer {
        let mut buffer = Buffer::uninit(len);
        buffer.fill(0.0);
        buffer
    }

    /// Reserves memory for `len` elements in all, so that growing to them moves nothing.
    pub(crate) fn reserve(&mut self, len: usize) {
        self.lines.reserve_exact(len.div_ceil(16).saturating_sub(self.lines.len()));
    }

    /// Appends zeros up to `len` elements, in place if the memory is reserved.
    pub(crate) fn grow(&mut self, len: usize) {
        let end = self.len;
        self.lines.resize(len.div_ceil(16).max(self.lines.len()), Line([0.0; 16]));
        self.len = len.max(end);
        self[end..].fill(0.0);
    }

    /// Copies a slice.
    pub fn from_slice(slice: &[f32]) -> Buffer {
        let mut buffer = Buffer::uninit(slice.len());
        buffer.copy_from_slice(slice);
        buffer
    }
}

impl Buffer {
    /// The memory as 32-bit words.
    pub(crate) fn words(&self) -> &[u32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    /// The memory as 32-bit words, to write.
    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }

    /// The memory as bf16, two for each f32.
    pub(crate) fn bf16(&self) -> &[bf16] {
        &bytemuck::cast_slice(&self.lines)[..2 * self.len]
    }

    /// The memory as bf16, to write.
    pub(crate) fn bf16_mut(&mut self) -> &mut [bf16] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..2 * self.len]
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Buffer::from_slice(self)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if !lines.is_empty() {
            // An ending thread has no list any more.
            let _ = FREE.try_with(|free| free.borrow_mut().entry(lines.len()).or_default().push(lines));
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        const LEN: usize = 54_330; // used by no other test
        let mut first = Buffer::zeros(LEN);
        first.fill(7.0);
        let place = first.as_ptr();
        assert_eq!(place.align_offset(64), 0);
        drop(first);
        let again = Buffer::uninit(LEN - 1); // as many cache lines
        assert_eq!((again.as_ptr(), again.len(), again[LEN - 2]), (place, LEN - 1, 7.0));
        let other = again.clone();
        assert!(other.as_ptr() != place && other[..] == again[..]);
        drop(again);
        let zeros = Buffer::zeros(LEN);
        assert!(zeros.as_ptr() == place && zeros.iter().all(|v| *v == 0.0));
        let mut grown = Buffer::uninit(0);
        assert!(grown.is_empty());
        grown.grow(3);
        grown.fill(5.0);
        grown.grow(40);
        assert!(grown[..3] == [5.0; 3] && grown[3..] == [0.0; 37]);
    }
}
