//! The passes of optimizers on the CPU.

use super::rule::Rule;
use crate::cpu::flat::BLOCK;
use crate::cpu::simd::with_simd;
use crate::cpu::threads::{DisjointSlices, for_each_chunk, parallel};
use crate::parameters::Parameters;
use crate::tensor::Tensor;

/// Updates the parameters once. `steps` counts this update; gradients are multiplied by `clip`.
#[allow(clippy::too_many_arguments, reason = "the state of an optimizer and the settings of one step")]
pub(super) fn step(
    rule: Rule,
    weight_decay: f32,
    parameters: &mut Parameters,
    moments: Vec<&mut [f32]>,
    gradients: &[f32],
    steps: u64,
    rate: f32,
    clip: f32,
) {
    let steps = steps as i32;
    let (entries, values) = parameters.split_mut();
    assert!(entries.is_sorted_by(|a, b| a.range.end <= b.range.start), "the parameters' ranges do not overlap");
    // Pieces of at most a block: (first, length, rate, decay).
    let pieces: Vec<(usize, usize, f32, f32)> = entries
        .iter()
        .filter(|e| e.trainable)
        .flat_map(|e| {
            let (rate, decay) = (rate * e.rate, weight_decay * e.decay);
            let end = e.range.end;
            e.range.clone().step_by(BLOCK).map(move |first| (first, BLOCK.min(end - first), rate, decay))
        })
        .collect();
    let values = DisjointSlices::new(values);
    let moments: Vec<DisjointSlices<'_, f32>> = moments.into_iter().map(DisjointSlices::new).collect();
    parallel(pieces.len(), |piece| {
        let (first, n, rate, decay) = pieces[piece];
        // SAFETY: pieces do not overlap: they are parts of ranges that do not (asserted above).
        let (w, m) = unsafe { (values.part(first, n), moments[0].part(first, n)) };
        let g = &gradients[first..first + n];
        match rule {
            Rule::AdamW { beta1, beta2, eps } => {
                // SAFETY: as above.
                let v = unsafe { moments[1].part(first, n) };
                let correction1 = 1.0 - (beta1 as f64).powi(steps);
                let correction2 = 1.0 - (beta2 as f64).powi(steps);
                let step_size = (rate as f64 / correction1) as f32;
                let root2 = (1.0 / correction2.sqrt()) as f32;
                with_simd(
                    #[inline(always)]
                    || {
                        for i in 0..n {
                            let g = g[i] * clip;
                            m[i] += (1.0 - beta1) * (g - m[i]);
                            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                            w[i] = w[i] * (1.0 - rate * decay) - step_size * m[i] / (v[i].sqrt() * root2 + eps);
                        }
                    },
                );
            }
            Rule::Sgd { momentum } => with_simd(
                #[inline(always)]
                || {
                    for i in 0..n {
                        m[i] = momentum * m[i] + g[i] * clip + decay * w[i];
                        w[i] -= rate * m[i];
                    }
                },
            ),
        }
    });
}

pub(super) fn finite_flag(norm: &Tensor, losses: &[&Tensor]) -> Tensor {
    let finite = std::iter::once(&norm).chain(losses).all(|value| value.data().iter().all(|v| v.is_finite()));
    Tensor::scalar(if finite { 1.0 } else { 0.0 })
}

pub(super) fn momentum_update(target: &mut [f32], source: &[f32], momentum: f32) {
    for_each_chunk(target, BLOCK, |block, target| {
        let source = &source[block * BLOCK..][..target.len()];
        with_simd(
            #[inline(always)]
            || target.iter_mut().zip(source).for_each(|(t, s)| *t = momentum * *t + (1.0 - momentum) * s),
        );
    });
}
