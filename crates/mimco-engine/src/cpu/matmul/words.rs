//! Elements as 32-bit words along the inner dimension: one f32, or two neighbors in bf16.

#[cfg(test)]
use super::layout::TILE;
use super::layout::{PANEL, SIDE};
use crate::element::Element;
use half::bf16;

/// Packs a row into words along it, with zeros after its end.
#[inline(always)]
pub(super) fn along<T: Element, const BF16: bool>(row: &[T], out: &mut [u32; SIDE]) {
    if BF16 {
        let whole = <&[T; 2 * SIDE]>::try_from(row).copied().unwrap_or_else(|_| padded(row));
        *bytemuck::cast_mut::<_, [bf16; 2 * SIDE]>(out) = T::to_bf16_array(&whole);
    } else {
        let whole = <&[T; SIDE]>::try_from(row).copied().unwrap_or_else(|_| padded(row));
        out.iter_mut().zip(whole).for_each(|(out, v)| *out = v.to_f32().to_bits());
    }
}

/// Packs two rows (in f32 only the upper one) into a word for each of 32 columns, with zeros after
/// the last.
#[inline(always)]
pub(super) fn across<T: Element, const BF16: bool>(upper: &[T], lower: &[T], out: &mut [u32; PANEL]) {
    let whole = |row: &[T]| <&[T; PANEL]>::try_from(row).copied().unwrap_or_else(|_| padded(row));
    let upper = whole(upper);
    if BF16 {
        let (upper, lower) = (T::to_bf16_array(&upper), T::to_bf16_array(&whole(lower)));
        for (c, out) in out.iter_mut().enumerate() {
            *out = upper[c].to_bits() as u32 | (lower[c].to_bits() as u32) << 16;
        }
    } else {
        out.iter_mut().zip(upper).for_each(|(out, v)| *out = v.to_f32().to_bits());
    }
}

#[inline(always)]
fn padded<T: Element, const N: usize>(row: &[T]) -> [T; N] {
    let mut padded = [T::zeroed(); N];
    padded[..row.len()].copy_from_slice(row);
    padded
}

/// Transposes 16 rows of 16 words: out[c][r] = from[r][c], with rows `stride` and `out_stride`
/// apart.
#[inline(always)]
pub(super) fn transpose(from: &[u32], stride: usize, out: &mut [u32], out_stride: usize) {
    let last = (SIDE - 1) * stride + SIDE - 1;
    let out_last = (SIDE - 1) * out_stride + SIDE - 1;
    assert!(last < from.len() && out_last < out.len(), "a tile outside its words");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512; the assertion covers the words.
        return unsafe { transpose_in_registers(from.as_ptr(), stride, out.as_mut_ptr(), out_stride) };
    }
    for row in 0..SIDE {
        for column in 0..SIDE {
            out[column * out_stride + row] = from[row * stride + column];
        }
    }
}

/// # Safety
/// Each pointer has sixteen rows of sixteen words, `stride` and `out_stride` apart.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_in_registers(from: *const u32, stride: usize, out: *mut u32, out_stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: ensured by the caller.
    let rows: [__m512i; SIDE] = std::array::from_fn(|row| unsafe { _mm512_loadu_si512(from.add(row * stride).cast()) });
    let mut quads = [_mm512_setzero_si512(); SIDE];
    // Four rows at a time: quarter q of quads[4 g + j] becomes column 4 q + j of rows 4 g..4 g + 4.
    for g in 0..4 {
        let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        quads[4 * g] = _mm512_unpacklo_epi64(ab_low, cd_low);
        quads[4 * g + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        quads[4 * g + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        quads[4 * g + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    for j in 0..4 {
        // The even and the odd quarters of two groups, then those of both pairs of groups.
        let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(quads[j], quads[4 + j]), _mm512_shuffle_i32x4::<0xdd>(quads[j], quads[4 + j]));
        let (even2, odd2) =
            (_mm512_shuffle_i32x4::<0x88>(quads[8 + j], quads[12 + j]), _mm512_shuffle_i32x4::<0xdd>(quads[8 + j], quads[12 + j]));
        let columns = [
            (j, _mm512_shuffle_i32x4::<0x88>(even, even2)),
            (4 + j, _mm512_shuffle_i32x4::<0x88>(odd, odd2)),
            (8 + j, _mm512_shuffle_i32x4::<0xdd>(even, even2)),
            (12 + j, _mm512_shuffle_i32x4::<0xdd>(odd, odd2)),
        ];
        for (column, words) in columns {
            // SAFETY: ensured by the caller.
            unsafe { _mm512_storeu_si512(out.add(column * out_stride).cast(), words) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_is_transposed() {
        for (stride, out_stride) in [(16, 16), (32, 16), (17, 40)] {
            let from: Vec<u32> = (0..15 * stride as u32 + 16).collect();
            let mut out = vec![0; 15 * out_stride + 16];
            transpose(&from, stride, &mut out, out_stride);
            assert!((0..TILE).all(|i| out[i % 16 * out_stride + i / 16] == from[i / 16 * stride + i % 16]));
        }
    }
}
