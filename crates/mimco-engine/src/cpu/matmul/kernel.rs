//! The kernels: strips of rows times one packed panel.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::amx;
use super::layout::{PANEL, SIDE};
use super::strips::Strips;
use crate::element::Precision;

/// Implementation of products in bf16. Products in f32 always use the portable loops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), allow(dead_code, reason = "other processors lack the instructions"))]
pub(super) enum Kernel {
    /// AMX, on matrix registers.
    Amx,
    /// AVX512-BF16, `vdpbf16ps` on registers of 16 words.
    Avx512,
    /// Loops that split each word into two f32, compiled for the widest vectors.
    Portable,
}

impl Kernel {
    /// Name in benchmark results.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Amx => "amx",
            Kernel::Avx512 => "avx512_bf16",
            Kernel::Portable => "portable",
        }
    }

    /// Kernels that this machine runs, the fastest first.
    pub fn all() -> Vec<Kernel> {
        let mut all = Vec::new();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if amx::granted() {
            all.push(Kernel::Amx);
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
            all.push(Kernel::Avx512);
        }
        all.push(Kernel::Portable);
        all
    }

    /// Whether the kernel reads the left factor only in row-major tiles.
    pub fn needs_row_major(self, precision: Precision) -> bool {
        precision == Precision::Bf16 && self == Kernel::Amx
    }

    /// Computes product [rows, 32] = the strips' rows times the panel. Rows up to the next multiple
    /// of 16 may be written.
    pub fn tiles(self, precision: Precision, strips: &Strips<'_>, panel: &[u32], rows: usize, product: &mut [f32]) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if precision == Precision::Bf16 && self == Kernel::Amx {
            return amx::tiles(strips, panel, rows, product);
        }
        for (i, product) in product.chunks_exact_mut(SIDE * PANEL).enumerate().take(rows.div_ceil(SIDE)) {
            match (precision, self) {
                // SAFETY: this kernel is chosen only if the processor has the instructions.
                #[cfg(target_arch = "x86_64")]
                (Precision::Bf16, Kernel::Avx512) => unsafe { avx512(strips, i, panel, rows - i * SIDE, product) },
                (Precision::Bf16, _) => pulp::Arch::new().dispatch(Loops::<true> { strips, i, panel, product }),
                (Precision::F32, _) => pulp::Arch::new().dispatch(Loops::<false> { strips, i, panel, product }),
            }
        }
    }
}

/// Multiplies sixteen rows in two halves of eight, each by 16 registers of 16 sums.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn avx512(strips: &Strips<'_>, i: usize, panel: &[u32], rows: usize, product: &mut [f32]) {
    use std::arch::x86_64::*;
    const HALF: usize = SIDE / 2;
    let (panel, _) = panel.as_chunks::<{ SIDE * PANEL }>();
    if panel.is_empty() {
        return product.fill(0.0);
    }
    let words = strips.from(i, panel.len() * SIDE).as_ptr();
    for (half, product) in product.as_chunks_mut::<{ HALF * PANEL }>().0.iter_mut().enumerate().take(rows.div_ceil(HALF)) {
        let mut sums = [[_mm512_setzero_ps(); 2]; HALF];
        for (tile, panel) in panel.iter().enumerate() {
            for inner in 0..SIDE {
                // SAFETY: a slab has 512 words, of which 32 from 32 · inner are read.
                // `Strips::from` has checked that the words of sixteen rows and of the panel's
                // slabs are in the strip.
                unsafe {
                    let b = [0, 16].map(|i| {
                        let words = _mm512_loadu_si512(panel.as_ptr().add(inner * PANEL + i).cast());
                        std::mem::transmute::<__m512i, __m512bh>(words)
                    });
                    let words = words.add(half * HALF * strips.row + tile * strips.tile + inner * strips.inner);
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let a = _mm512_set1_epi32(*words.add(row * strips.row) as i32);
                        let a = std::mem::transmute::<__m512i, __m512bh>(a);
                        sums[0] = _mm512_dpbf16_ps(sums[0], a, b[0]);
                        sums[1] = _mm512_dpbf16_ps(sums[1], a, b[1]);
                    }
                }
            }
        }
        for (product, sums) in product.as_chunks_mut::<PANEL>().0.iter_mut().zip(sums) {
            // SAFETY: a row of the product has 32 elements.
            unsafe {
                _mm512_storeu_ps(product.as_mut_ptr(), sums[0]);
                _mm512_storeu_ps(product.as_mut_ptr().add(16), sums[1]);
            }
        }
    }
}

/// Loops over `ROWS` rows by two registers of columns, for vectors of any width. In bf16 a word is
/// split by a shift and a mask.
struct Loops<'a, const BF16: bool> {
    strips: &'a Strips<'a>,
    i: usize,
    panel: &'a [u32],
    product: &'a mut [f32],
}

impl<const BF16: bool> pulp::WithSimd for Loops<'_, BF16> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        // AVX-512 has 32 registers, the others 16.
        if S::F32_LANES == 16 { self.run::<S, 8>(simd) } else { self.run::<S, 4>(simd) }
    }
}

impl<const BF16: bool> Loops<'_, BF16> {
    #[inline(always)]
    fn run<S: pulp::Simd, const ROWS: usize>(self, simd: S) {
        let registers = PANEL / S::F32_LANES;
        let panel = S::as_simd_u32s(self.panel).0;
        let tiles = panel.len() / (SIDE * registers);
        if tiles == 0 {
            return self.product.fill(0.0);
        }
        let words = self.strips.from(self.i, tiles * SIDE).as_ptr();
        let sixteen = simd.splat_u32s(16);
        let upper = simd.splat_u32s(0xffff_0000);
        let low = |word| simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(word, sixteen));
        let high = |word| simd.transmute_f32s_u32s(simd.and_u32s(word, upper));
        for (group, product) in self.product.chunks_exact_mut(ROWS * PANEL).enumerate() {
            for column in (0..registers).step_by(2) {
                let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
                for (tile, panel) in panel.chunks_exact(SIDE * registers).enumerate() {
                    for inner in 0..SIDE {
                        let b = [panel[inner * registers + column], panel[inner * registers + column + 1]];
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let place = (group * ROWS + row) * self.strips.row + tile * self.strips.tile + inner * self.strips.inner;
                            // SAFETY: `Strips::from` has checked that the words of sixteen rows and
                            // of the panel's slabs are in the strip.
                            let a = simd.splat_u32s(unsafe { *words.add(place) });
                            for i in 0..2 {
                                sums[i] = if BF16 {
                                    simd.mul_add_e_f32s(high(a), high(b[i]), simd.mul_add_e_f32s(low(a), low(b[i]), sums[i]))
                                } else {
                                    simd.mul_add_e_f32s(simd.transmute_f32s_u32s(a), simd.transmute_f32s_u32s(b[i]), sums[i])
                                };
                            }
                        }
                    }
                }
                for (product, sums) in product.chunks_exact_mut(PANEL).zip(sums) {
                    let product = S::as_mut_simd_f32s(product).0;
                    product[column] = sums[0];
                    product[column + 1] = sums[1];
                }
            }
        }
    }
}
