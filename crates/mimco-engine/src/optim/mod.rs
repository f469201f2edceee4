//! Optimizers: one pass over a model's flat buffer, with the table of rates and decays; the gradient's norm and clipping.

use crate::Parameters;
use crate::cpu::buffer::Buffer;
use crate::cpu::threads::{Parts, for_each_chunk, parallel};
use crate::cpu::vector::{sum_by, wide};

/// Elements a block.
const BLOCK: usize = 16 * 1024;

/// Zeros, before a step adds to its gradients.
pub fn clear(gradients: &mut [f32]) {
    for_each_chunk(gradients, BLOCK, |_, part| part.fill(0.0));
}

/// Euclidean norm of a flat gradient; not finite where any element is not.
pub fn gradient_norm(gradients: &[f32]) -> f32 {
    let mut sums = vec![0.0f64; gradients.len().div_ceil(BLOCK)];
    {
        let sums = Parts::new(&mut sums);
        parallel(gradients.len().div_ceil(BLOCK), |block| {
            let g = &gradients[block * BLOCK..gradients.len().min((block + 1) * BLOCK)];
            // Short runs in f32, their sum in f64, so that few digits are lost. Elements above 1e19 make the norm infinite.
            let sum = g.chunks(256).map(|g| {
                wide(
                    #[inline(always)]
                    || sum_by([g], |[g]| g * g),
                ) as f64
            });
            // SAFETY: one number a block.
            let own = unsafe { sums.part(block, 1) };
            own[0] = sum.sum();
        });
    }
    sums.iter().sum::<f64>().sqrt() as f32
}

/// The factor that brings a gradient of this norm to at most `max_norm`, as PyTorch's `clip_grad_norm_` has it; 1 where `max_norm` is 0 (off),
/// NaN where the norm is.
pub fn clip_factor(norm: f32, max_norm: f32) -> f32 {
    let factor = max_norm / (norm + 1e-6);
    if max_norm <= 0.0 || factor > 1.0 { 1.0 } else { factor }
}

/// Which rule an optimizer follows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rule {
    /// AdamW (Loshchilov and Hutter 2019), as PyTorch computes it.
    AdamW {
        /// Rate of the mean of gradients.
        beta1: f32,
        /// Rate of the mean of squared gradients.
        beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
    },
    /// Stochastic gradient descent with momentum, decay added to the gradient, as PyTorch computes it.
    Sgd {
        /// Share of the last update that stays.
        momentum: f32,
    },
}

/// An optimizer and its moments, laid out as the parameters.
pub struct Optimizer {
    rule: Rule,
    weight_decay: f32,
    /// Moments by name: Adam's `m` and `v`, or SGD's `momentum`.
    moments: Vec<(&'static str, Buffer)>,
    steps: u64,
}

impl Optimizer {
    /// An optimizer at its first step.
    pub fn new(rule: Rule, weight_decay: f32, parameters: &Parameters) -> Optimizer {
        let names: &[&str] = match rule {
            Rule::AdamW { .. } => &["m", "v"],
            Rule::Sgd { .. } => &["momentum"],
        };
        let moments = names.iter().map(|&name| (name, parameters.zeros_like())).collect();
        Optimizer { rule, weight_decay, moments, steps: 0 }
    }

    /// The moments, for a checkpoint.
    pub fn moments(&self) -> &[(&'static str, Buffer)] {
        &self.moments
    }

    /// The moments, to be read back from a checkpoint.
    pub fn moments_mut(&mut self) -> &mut [(&'static str, Buffer)] {
        &mut self.moments
    }

    /// Updates done so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Goes on from a checkpoint's number of updates.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// One update with `rate` times each range's own factor; gradients are multiplied by `clip` first.
    pub fn step(&mut self, parameters: &mut Parameters, gradients: &[f32], rate: f32, clip: f32) {
        self.steps += 1;
        let steps = self.steps as i32;
        let (rule, weight_decay) = (self.rule, self.weight_decay);
        let (entries, values) = parameters.split_mut();
        assert!(entries.is_sorted_by(|a, b| a.range.end <= b.range.start), "the parameters' ranges lie apart");
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
        let values = Parts::new(values);
        let moments: Vec<Parts<'_, f32>> = self.moments.iter_mut().map(|(_, m)| Parts::new(m)).collect();
        parallel(pieces.len(), |piece| {
            let (first, n, rate, decay) = pieces[piece];
            // SAFETY: pieces do not overlap: they are cut from ranges that lie apart (asserted above).
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
                    wide(
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
                Rule::Sgd { momentum } => wide(
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
}

/// target = momentum · target + (1 - momentum) · source, the momentum encoder's update, over the target's whole flat buffer;
/// the source's may be longer (a predictor follows).
pub fn momentum_update(target: &mut [f32], source: &[f32], momentum: f32) {
    for_each_chunk(target, BLOCK, |block, target| {
        let source = &source[block * BLOCK..][..target.len()];
        wide(
            #[inline(always)]
            || target.iter_mut().zip(source).for_each(|(t, s)| *t = momentum * *t + (1.0 - momentum) * s),
        );
    });
}
