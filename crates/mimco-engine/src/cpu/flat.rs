//! Passes over flat blocks of f32: clearing and the Euclidean norm.

use super::simd::with_simd;
use super::threads::{DisjointSlices, for_each_chunk, parallel};
use super::vector::sum_by;

/// Elements of a block, the work of one thread at a time.
pub(crate) const BLOCK: usize = 16 * 1024;

/// Fills with zeros.
pub(crate) fn clear(values: &mut [f32]) {
    for_each_chunk(values, BLOCK, |_, part| part.fill(0.0));
}

/// Returns the Euclidean norm. It is not finite if any element is not; elements above 1e19 make it
/// infinite.
pub(crate) fn norm(values: &[f32]) -> f32 {
    let mut sums = vec![0.0f64; values.len().div_ceil(BLOCK)];
    {
        let sums = DisjointSlices::new(&mut sums);
        parallel(values.len().div_ceil(BLOCK), |block| {
            let g = &values[block * BLOCK..values.len().min((block + 1) * BLOCK)];
            // Short runs are summed in f32 and their sums in f64, so that few digits are lost.
            let sum = g.chunks(256).map(|g| {
                with_simd(
                    #[inline(always)]
                    || sum_by([g], |[g]| g * g),
                ) as f64
            });
            // SAFETY: each block writes its own element.
            let own = unsafe { sums.part(block, 1) };
            own[0] = sum.sum();
        });
    }
    sums.iter().sum::<f64>().sqrt() as f32
}
