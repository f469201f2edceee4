//! Vector math in plain loops, for callers inside [`with_simd`].

use super::simd::with_simd;
use crate::element::Element;
use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// Number of partial sums: one AVX-512 register. It is fixed, so that every machine adds in the
/// same order.
const LANES: usize = 16;

/// Prefetches the cache lines that follow a part of a row, as many bytes as the part has: the part
/// of the next tile, which is written soon. The hardware does not predict jumps between rows.
#[inline(always)]
pub(crate) fn prefetch_next<T>(part: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of_val(part)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: the instruction reads nothing and never faults, at any address.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(part.as_ptr_range().end.cast::<i8>().wrapping_add(line)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = part;
}

/// Sets `values[i] = f(values[i], others[i])`, sixteen at a time, for a row of a tile of known
/// length.
///
/// Each sixteen are copied first, so that the compiler need not check the slices for overlap and
/// vectorizes the loop. Longer slices vectorize as plain loops.
#[inline(always)]
pub(crate) fn combine<T: Element>(values: &mut [f32], others: &[T], f: impl Fn(f32, T) -> f32) {
    assert_eq!(values.len(), others.len(), "slices of one length");
    let ((values, last), (others, last_others)) = (values.as_chunks_mut::<LANES>(), others.as_chunks::<LANES>());
    for (values, others) in values.iter_mut().zip(others) {
        let (mut result, others) = (*values, *others);
        (0..LANES).for_each(|i| result[i] = f(result[i], others[i]));
        *values = result;
    }
    last.iter_mut().zip(last_others).for_each(|(value, &other)| *value = f(*value, other));
}

/// Returns Σ f(elements at i) over slices of one length, by 16 partial sums that are folded in a
/// fixed order.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub fn sum_by<const N: usize>(slices: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    let len = slices[0].len();
    assert!(slices.iter().all(|slice| slice.len() == len), "slices of one length");
    let parts = slices.map(|slice| slice.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for chunk in 0..len / LANES {
        // SAFETY: each slice has that many whole chunks.
        let chunks = parts.map(|(whole, _)| unsafe { whole.get_unchecked(chunk) });
        for lane in 0..LANES {
            lanes[lane] += f(chunks.map(|chunk| chunk[lane]));
        }
    }
    for (lane, sum) in lanes.iter_mut().enumerate().take(len % LANES) {
        *sum += f(parts.map(|(_, rest)| rest[lane]));
    }
    fold(lanes, |a, b| a + b)
}

/// Sixteen partial results that are folded in a fixed order.
pub(crate) struct Lanes([f32; LANES]);

impl Lanes {
    /// Sets all sixteen to `x`.
    #[inline(always)]
    pub fn of(x: f32) -> Lanes {
        Lanes([x; LANES])
    }

    /// Folds 32 values into the partial results, two into each.
    #[inline(always)]
    pub fn each(&mut self, values: &[f32; 2 * LANES], f: impl Fn(f32, f32) -> f32) {
        for half in values.as_chunks::<LANES>().0 {
            (0..LANES).for_each(|i| self.0[i] = f(self.0[i], half[i]));
        }
    }

    /// Folds all partial results into one.
    #[inline(always)]
    pub fn fold(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        fold(self.0, f)
    }
}

#[inline(always)]
fn fold(lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let halve = |from: &[f32], to: &mut [f32]| {
        let half = to.len();
        (0..half).for_each(|i| to[i] = f(from[i], from[i + half]));
    };
    let (mut eight, mut four, mut two) = ([0.0; 8], [0.0; 4], [0.0; 2]);
    halve(&lanes, &mut eight);
    halve(&eight, &mut four);
    halve(&four, &mut two);
    f(two[0], two[1])
}

/// Returns the largest element, or -∞ for an empty slice. NaN is skipped: a softmax propagates it
/// in the exponential.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    for (lane, &v) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = lane.max(v);
    }
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    fold(lanes, f32::max)
}

/// Returns Σ a·b.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut lanes = [0.0f32; LANES];
    let (ca, cb) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for ((lane, &x), &y) in lanes.iter_mut().zip(ca.remainder()).zip(cb.remainder()) {
        *lane = x * y;
    }
    for (x, y) in ca.zip(cb) {
        for i in 0..LANES {
            lanes[i] = x[i].mul_add(y[i], lanes[i]);
        }
    }
    fold(lanes, |a, b| a + b)
}

/// Adds b to a.
pub(crate) fn add(a: &mut [f32], b: &[f32]) {
    with_simd(
        #[inline(always)]
        || a.iter_mut().zip(b).for_each(|(a, b)| *a += b),
    );
}

/// Adds s · b to a.
pub(crate) fn add_scaled(a: &mut [f32], s: f32, b: &[f32]) {
    with_simd(
        #[inline(always)]
        || a.iter_mut().zip(b).for_each(|(a, b)| *a = b.mul_add(s, *a)),
    );
}

/// Returns eˣ with a relative error below 2e-7 between -87 and 88, clamped outside; NaN for NaN.
///
/// x = n ln 2 + r, and eʳ by its series to r⁷.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const LN_2_HIGH: f32 = 0.693_359_4; // 355/512, exact in few bits, so that n * LN_2_HIGH is exact
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons, since `min` and `max` would lose a NaN.
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x.mul_add(LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let mut p = 1.0 / 5040.0f32;
    p = p.mul_add(r, 1.0 / 720.0);
    p = p.mul_add(r, 1.0 / 120.0);
    p = p.mul_add(r, 1.0 / 24.0);
    p = p.mul_add(r, 1.0 / 6.0);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r, 1.0);
    p = p.mul_add(r, 1.0);
    let power = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(power)
}

/// Returns Φ(x), the normal distribution function, and e^(-x²/2), for GELU and its derivative.
///
/// erfc by Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
#[inline(always)]
fn normal_cdf(x: f32) -> (f32, f32) {
    let a = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / a.mul_add(0.327_591_1, 1.0);
    let mut p = 1.061_405_4f32;
    p = p.mul_add(t, -1.453_152);
    p = p.mul_add(t, 1.421_413_7);
    p = p.mul_add(t, -0.284_496_74);
    p = p.mul_add(t, 0.254_829_6);
    let e = exp(-a * a);
    let tail = 0.5 * p * t * e; // Φ(-|x|)
    (if x < 0.0 { tail } else { 1.0 - tail }, e)
}

/// Returns the exact GELU, x Φ(x).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    x * normal_cdf(x).0
}

/// Returns GELU and its derivative, Φ(x) + x φ(x).
#[inline(always)]
pub(crate) fn gelu_and_derivative(x: f32) -> (f32, f32) {
    const INV_SQRT_2_PI: f32 = 0.398_942_3;
    let (cdf, e) = normal_cdf(x);
    (x * cdf, (x * e).mul_add(INV_SQRT_2_PI, cdf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulps_of_f64() {
        let worst = (-870..880)
            .flat_map(|i| (0..10).map(move |j| i as f32 * 0.1 + j as f32 * 0.0123))
            .filter(|x| x.abs() <= 87.0)
            .map(|x| ((exp(x) as f64 - (x as f64).exp()) / (x as f64).exp()).abs())
            .fold(0.0, f64::max);
        assert!(worst < 2e-7, "{worst:e}");
        assert!((std::f32::consts::LN_2 - (0.693_359_4 - 2.121_944_4e-4)).abs() < 1e-7);
    }

    #[test]
    fn nan_and_infinities_are_kept() {
        assert!(exp(f32::NAN).is_nan() && gelu(f32::NAN).is_nan() && gelu_and_derivative(f32::NAN).1.is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && gelu(f32::INFINITY) == f32::INFINITY && !gelu(f32::NEG_INFINITY).is_finite());
        for n in [1, 16, 33] {
            for place in 0..n {
                let mut x = vec![1.0f32; n];
                x[place] = f32::NAN;
                assert!(dot(&x, &x).is_nan() && sum_by([&x], |[x]| x).is_nan(), "{place} of {n}");
                assert_eq!(max(&x), if n == 1 { f32::NEG_INFINITY } else { 1.0 }, "{place} of {n}");
                // As a softmax uses it: the vectorized loops must keep NaN, too.
                let top = max(&x);
                with_simd(
                    #[inline(always)]
                    || x.iter_mut().for_each(|x| *x = exp(*x - top)),
                );
                assert!(x[place].is_nan(), "{place} of {n}");
            }
        }
    }

    #[test]
    fn gelu_is_the_exact_one() {
        // x Φ(x) and Φ(x) + x φ(x), by mpmath at 30 digits.
        for (x, y, d) in [
            (-3.0, -0.004_049_694, -0.011_945_647),
            (-1.0, -0.158_655_25, -0.083_315_47),
            (-0.1, -0.046_017_22, 0.420_476_5),
            (0.0, 0.0, 0.5),
            (0.5, 0.345_731_23, 0.867_495_1),
            (2.0, 1.954_499_7, 1.085_231_9),
            (6.0, 6.0, 1.000_000_03),
        ] {
            assert!((gelu(x) - y).abs() < 4e-7, "gelu({x}) = {}", gelu(x));
            let both = gelu_and_derivative(x);
            assert!(both.0 == gelu(x) && (both.1 - d).abs() < 4e-7, "gelu'({x}) = {}", both.1);
        }
    }

    #[test]
    fn sums_take_every_element_of_odd_lengths() {
        for n in [0usize, 1, 15, 16, 17, 33] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum_by([&x], |[x]| x), (n * n.saturating_sub(1) / 2) as f32);
            assert_eq!(dot(&x, &x), x.iter().map(|v| v * v).sum::<f32>());
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
