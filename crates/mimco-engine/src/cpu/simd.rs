//! Compilation of plain loops for the widest vectors of the processor, chosen at run time.

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

/// Runs `work` compiled for the widest vectors of the machine (AVX-512, AVX2 or the baseline).
///
/// The closure and every function that it calls must be `#[inline(always)]`; any other function
/// remains compiled for the baseline.
#[inline(always)]
pub fn with_simd<R>(work: impl FnOnce() -> R) -> R {
    struct Op<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Op<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    #[cfg(target_arch = "x86_64")]
    if has_avx512_bf16() {
        // SAFETY: the processor has these instructions.
        return unsafe { with_avx512_bf16(work) };
    }
    pulp::Arch::new().dispatch(Op(work))
}

/// Runs `work` with AVX-512 and its bf16 instructions; `pulp` has no level that includes them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512bf16,fma")]
fn with_avx512_bf16<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// Whether the processor rounds to bf16 and has the vectors that `pulp` calls V4; detected once.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn has_avx512_bf16() -> bool {
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
