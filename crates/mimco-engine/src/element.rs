//! Numbers as tensors hold them: f32, or bf16 as its bits; and the way from one to the other.

use crate::cpu::matmul::Values;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

/// An element of a tensor: f32, or bf16 as its bits.
pub trait Number: bytemuck::Pod + Send + Sync {
    /// Its value.
    fn single(self) -> f32;
    /// Nearest bf16.
    fn half(self) -> u16;
    /// Numbers of this kind nearest to `values`, as many.
    fn store(out: &mut [Self], values: &[f32]);
    /// The elements in either precision.
    fn values(elements: &[Self]) -> Values<'_>;
    /// Nearest bf16 of each.
    fn halves<const N: usize>(values: &[Self; N]) -> [u16; N];
}

impl Number for f32 {
    #[inline(always)]
    fn single(self) -> f32 {
        self
    }
    #[inline(always)]
    fn half(self) -> u16 {
        to_bf16(self)
    }
    #[inline(always)]
    fn store(out: &mut [f32], values: &[f32]) {
        out.copy_from_slice(values);
    }
    #[inline(always)]
    fn values(elements: &[f32]) -> Values<'_> {
        Values::F32(elements)
    }
    #[inline(always)]
    fn halves<const N: usize>(values: &[f32; N]) -> [u16; N] {
        let mut halves = [0; N];
        round(&mut halves, values);
        halves
    }
}

impl Number for u16 {
    #[inline(always)]
    fn single(self) -> f32 {
        f32::from_bits((self as u32) << 16)
    }
    #[inline(always)]
    fn half(self) -> u16 {
        self
    }
    #[inline(always)]
    fn store(out: &mut [u16], values: &[f32]) {
        round(out, values);
    }
    #[inline(always)]
    fn values(elements: &[u16]) -> Values<'_> {
        Values::Bf16(elements)
    }
    #[inline(always)]
    fn halves<const N: usize>(values: &[u16; N]) -> [u16; N] {
        *values
    }
}

/// Nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded as u16 }
}

/// The same for many, by the processor's own instruction where it has one: that takes what is below the smallest normal number for 0.
#[inline(always)]
fn round(out: &mut [u16], values: &[f32]) {
    assert_eq!(out.len(), values.len(), "as many");
    let ((out, last), (values, last_values)) = (out.as_chunks_mut::<32>(), values.as_chunks::<32>());
    out.iter_mut().zip(values).for_each(|(out, values)| round_32(out, values));
    if !last.is_empty() {
        let (mut padded, mut rounded) = ([0.0; 32], [0; 32]);
        padded[..last.len()].copy_from_slice(last_values);
        round_32(&mut rounded, &padded);
        last.copy_from_slice(&rounded[..last.len()]);
    }
}

#[inline(always)]
fn round_32(out: &mut [u16; 32], values: &[f32; 32]) {
    #[cfg(target_arch = "x86_64")]
    if has_bf16() {
        // SAFETY: just found.
        return unsafe { round_by_instruction(out, values) };
    }
    out.iter_mut().zip(values).for_each(|(o, v)| *o = to_bf16(*v));
}

/// Whether the processor rounds to bf16 (and has the vectors that pulp calls V4); found once.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn has_bf16() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("fma")
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn round_by_instruction(out: &mut [u16; 32], values: &[f32; 32]) {
    use std::arch::x86_64::*;
    // SAFETY: 32 numbers each.
    unsafe {
        let (first, second) = (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values.as_ptr().add(16)));
        let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
        _mm512_storeu_si512(out.as_mut_ptr().cast(), halves);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::vector::wide;

    #[test]
    fn bf16_is_the_nearest_ties_to_even() {
        // 1 + 1/256 lies between 1 and 1 + 1/128, 1 + 3/256 between that and 1 + 2/128; a hair more or less decides.
        let unit = 1.0 / 256.0;
        for (x, nearest) in [
            (1.0 + unit, 1.0),
            (1.0 + 1.001 * unit, 1.0 + 2.0 * unit),
            (1.0 + 3.0 * unit, 1.0 + 4.0 * unit),
            (-1.0 - 3.0 * unit, -1.0 - 4.0 * unit),
            (3e38, 3.00406e38),
        ] {
            assert!((x.half().single() / nearest - 1.0f32).abs() < 1e-4, "{x} {}", x.half().single());
        }
        assert_eq!((f32::MAX.half().single(), f32::NEG_INFINITY.half().single()), (f32::INFINITY, f32::NEG_INFINITY));
        for bits in [0x7f80_0001, 0x7fff_ffff, 0xffc0_0000, 0x7fc0_1234] {
            assert!(f32::from_bits(bits).half().single().is_nan(), "{bits:x}");
        }
        assert_eq!((0x8000u16.single().to_bits(), (-0.0f32).half()), (0x8000_0000, 0x8000));
    }

    #[test]
    fn many_are_rounded_as_one_is() {
        // Every upper half but the denormal ones, with lower halves around the middle; NaN and infinities among them.
        let values: Vec<f32> = (0..0x1_0000u32)
            .flat_map(|upper| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|lower| f32::from_bits(upper << 16 | lower)))
            .filter(|v| !v.is_subnormal())
            .collect();
        let mut rounded = vec![0; values.len()];
        wide(
            #[inline(always)]
            || round(&mut rounded, &values),
        );
        for (value, rounded) in values.iter().zip(rounded) {
            let same = if value.is_nan() { rounded.single().is_nan() } else { rounded == value.half() };
            assert!(same, "{value:e}: {rounded:x} for {:x}", value.half());
        }
    }
}
