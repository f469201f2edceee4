//! Buffers that are recycled: a training loop asks for the same sizes every step, so after the second step it allocates
//! nothing and the kernel has no page to bring in.

use bytemuck::{Pod, Zeroable};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{LazyLock, Mutex};

/// One cache line of 16 numbers; buffers start on a line, so that a vector load never crosses two.
#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Line([f32; 16]);

/// Free lines by their number.
static FREE: LazyLock<Mutex<HashMap<usize, Vec<Vec<Line>>>>> = LazyLock::new(Default::default);

/// A buffer of `f32`, aligned to 64 bytes, which goes back to the free list when it is dropped.
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` numbers whose values are left from an earlier use (or 0).
    pub fn stale(len: usize) -> Buffer {
        let lines = len.div_ceil(16);
        let used = FREE.lock().ok().and_then(|mut free| free.get_mut(&lines)?.pop());
        Buffer { lines: used.unwrap_or_else(|| vec![Line([0.0; 16]); lines]), len }
    }

    /// A buffer of `len` zeros.
    pub fn zeros(len: usize) -> Buffer {
        let mut buffer = Buffer::stale(len);
        buffer.fill(0.0);
        buffer
    }

    /// A copy of a slice.
    pub fn from_slice(slice: &[f32]) -> Buffer {
        let mut buffer = Buffer::stale(slice.len());
        buffer.copy_from_slice(slice);
        buffer
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
        if !lines.is_empty()
            && let Ok(mut free) = FREE.lock()
        {
            free.entry(lines.len()).or_default().push(lines);
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
        const LEN: usize = 54_330; // of no other test here
        let mut first = Buffer::zeros(LEN);
        first.fill(7.0);
        let place = first.as_ptr();
        assert_eq!(place.align_offset(64), 0);
        drop(first);
        let stale = Buffer::stale(LEN - 1); // as many cache lines
        assert_eq!((stale.as_ptr(), stale.len(), stale[LEN - 2]), (place, LEN - 1, 7.0));
        let other = stale.clone();
        assert!(other.as_ptr() != place && other[..] == stale[..]);
        drop(stale);
        let zeros = Buffer::zeros(LEN);
        assert!(zeros.as_ptr() == place && zeros.iter().all(|v| *v == 0.0));
        assert!(Buffer::stale(0).is_empty());
    }
}
