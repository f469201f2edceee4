//! Element types of tensors, f32 and bf16, and the conversion between them.

#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::has_avx512_bf16;
use half::bf16;

/// Precision of products and of stored activations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// bf16 factors and activations, sums in single precision.
    Bf16,
}

impl Precision {
    /// Number of elements in a 32-bit word.
    pub(crate) fn per_word(self) -> usize {
        per_word(self == Precision::Bf16)
    }
}

/// Number of elements in a 32-bit word, for a precision that is known at compile time.
pub(crate) const fn per_word(bf16: bool) -> usize {
    if bf16 { 2 } else { 1 }
}

/// Elements of a tensor in either precision.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> Values<'a> {
    /// Returns the elements from `start` on.
    pub fn from(self, start: usize) -> Self {
        match self {
            Values::F32(values) => Values::F32(&values[start..]),
            Values::Bf16(values) => Values::Bf16(&values[start..]),
        }
    }

    /// Number of elements.
    pub fn len(self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::Bf16(values) => values.len(),
        }
    }

    /// Returns the 32-bit words from element `start` on. `None` if the elements have another
    /// precision or are not aligned to four bytes.
    pub fn words(self, precision: Precision, start: usize) -> Option<&'a [u32]> {
        match (self.from(start), precision) {
            (Values::F32(values), Precision::F32) => bytemuck::try_cast_slice(values).ok(),
            (Values::Bf16(values), Precision::Bf16) => bytemuck::try_cast_slice(&values[..values.len() & !1]).ok(),
            _ => None,
        }
    }
}

/// Elements of a tensor in either precision, to write.
pub(crate) enum ValuesMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

/// An element of a tensor: f32 or bf16.
pub(crate) trait Element: bytemuck::Pod + Send + Sync {
    /// Converts to f32, exactly.
    fn to_f32(self) -> f32;
    /// Rounds to the nearest bf16.
    fn to_bf16(self) -> bf16;
    /// Writes `values`, rounded to this type, to `out` of the same length.
    fn convert_from(out: &mut [Self], values: &[f32]);
    /// Wraps a slice of this type.
    fn values(elements: &[Self]) -> Values<'_>;
    /// Rounds each element to the nearest bf16.
    fn to_bf16_array<const N: usize>(values: &[Self; N]) -> [bf16; N];
}

impl Element for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn to_bf16(self) -> bf16 {
        round_one(self)
    }
    #[inline(always)]
    fn convert_from(out: &mut [f32], values: &[f32]) {
        out.copy_from_slice(values);
    }
    #[inline(always)]
    fn values(elements: &[f32]) -> Values<'_> {
        Values::F32(elements)
    }
    #[inline(always)]
    fn to_bf16_array<const N: usize>(values: &[f32; N]) -> [bf16; N] {
        let mut rounded = [bf16::ZERO; N];
        round(&mut rounded, values);
        rounded
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn to_bf16(self) -> bf16 {
        self
    }
    #[inline(always)]
    fn convert_from(out: &mut [bf16], values: &[f32]) {
        round(out, values);
    }
    #[inline(always)]
    fn values(elements: &[bf16]) -> Values<'_> {
        Values::Bf16(elements)
    }
    #[inline(always)]
    fn to_bf16_array<const N: usize>(values: &[bf16; N]) -> [bf16; N] {
        *values
    }
}

/// Rounds to the nearest bf16, ties to even; NaN remains NaN.
#[inline(always)]
fn round_one(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    bf16::from_bits(if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded as u16 })
}

/// Rounds many values. Uses the processor's own instruction where there is one, which flushes
/// subnormal values to zero.
#[inline(always)]
fn round(out: &mut [bf16], values: &[f32]) {
    assert_eq!(out.len(), values.len(), "slices of one length");
    let ((out, last), (values, last_values)) = (out.as_chunks_mut::<32>(), values.as_chunks::<32>());
    out.iter_mut().zip(values).for_each(|(out, values)| round_32(out, values));
    if !last.is_empty() {
        let (mut padded, mut rounded) = ([0.0; 32], [bf16::ZERO; 32]);
        padded[..last.len()].copy_from_slice(last_values);
        round_32(&mut rounded, &padded);
        last.copy_from_slice(&rounded[..last.len()]);
    }
}

#[inline(always)]
fn round_32(out: &mut [bf16; 32], values: &[f32; 32]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512_bf16() {
        // SAFETY: the processor has these instructions.
        return unsafe { round_by_instruction(out, values) };
    }
    out.iter_mut().zip(values).for_each(|(o, v)| *o = round_one(*v));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn round_by_instruction(out: &mut [bf16; 32], values: &[f32; 32]) {
    use std::arch::x86_64::*;
    // SAFETY: each array has 32 elements, and a bf16 is 16 bits.
    unsafe {
        let (first, second) = (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values.as_ptr().add(16)));
        let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
        _mm512_storeu_si512(out.as_mut_ptr().cast(), rounded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::with_simd;

    fn rounded(x: f32) -> f32 {
        Element::to_f32(Element::to_bf16(x))
    }

    #[test]
    fn bf16_is_the_nearest_ties_to_even() {
        // 1 + 1/256 is halfway between 1 and 1 + 1/128, 1 + 3/256 between that and 1 + 2/128.
        let unit = 1.0 / 256.0;
        for (x, nearest) in [
            (1.0 + unit, 1.0),
            (1.0 + 1.001 * unit, 1.0 + 2.0 * unit),
            (1.0 + 3.0 * unit, 1.0 + 4.0 * unit),
            (-1.0 - 3.0 * unit, -1.0 - 4.0 * unit),
            (3e38, 3.00406e38),
        ] {
            assert!((rounded(x) / nearest - 1.0f32).abs() < 1e-4, "{x} {}", rounded(x));
        }
        assert_eq!((rounded(f32::MAX), rounded(f32::NEG_INFINITY)), (f32::INFINITY, f32::NEG_INFINITY));
        for bits in [0x7f80_0001, 0x7fff_ffff, 0xffc0_0000, 0x7fc0_1234] {
            assert!(rounded(f32::from_bits(bits)).is_nan(), "{bits:x}");
        }
        let zero = bf16::from_bits(0x8000);
        assert_eq!((Element::to_f32(zero).to_bits(), Element::to_bf16(-0.0f32).to_bits()), (0x8000_0000, 0x8000));
    }

    #[test]
    fn many_are_rounded_as_one_is() {
        // Every upper half except the subnormal ones, with lower halves around the middle; NaN
        // and infinities are included.
        let values: Vec<f32> = (0..0x1_0000u32)
            .flat_map(|upper| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|lower| f32::from_bits(upper << 16 | lower)))
            .filter(|v| !v.is_subnormal())
            .collect();
        let mut rounded = vec![bf16::ZERO; values.len()];
        with_simd(
            #[inline(always)]
            || round(&mut rounded, &values),
        );
        for (&value, rounded) in values.iter().zip(rounded) {
            let one = round_one(value);
            let same = if value.is_nan() { Element::to_f32(rounded).is_nan() } else { rounded.to_bits() == one.to_bits() };
            assert!(same, "{value:e}: {rounded} for {one}");
        }
    }
}
