//! Loss and gradient of multinomial logistic regression, the inner loop of the linear probe.

use mimco_engine::cpu::buffer::Buffer;
use mimco_engine::cpu::gemm::{Matrix, matmul, matmul_serial};
use mimco_engine::cpu::simd::with_simd;
use mimco_engine::cpu::threads::for_each_chunk;
use mimco_engine::cpu::vector::{exp, max, sum_by};

/// Number of partial gradients. It is fixed, so that their sum has the same bits for any number of
/// threads.
const PARTS: usize = 32;
/// Rows whose logits and gradient are computed while the rows are in cache.
const BLOCK: usize = 256;

/// Classification problem: inputs and their classes.
pub(super) struct Problem {
    /// Inputs [rows, width]. The last column is 1: its weights are the biases.
    pub inputs: Vec<f32>,
    /// Width of an input, the bias column included.
    pub width: usize,
    /// Class of each row `[rows]`, below `classes`.
    pub labels: Vec<u32>,
    /// Number of classes.
    pub classes: usize,
}

impl Problem {
    /// Returns the mean over rows of -ln softmax(x Wᵀ)`[label]`, plus regularization / 2 · Σ W²
    /// without the biases. W is `weights` [classes, width]; its gradient is written to `gradient`.
    pub(super) fn loss(&self, weights: &[f64], regularization: f64, gradient: &mut [f64]) -> f64 {
        let (rows, width, size) = (self.labels.len(), self.width, weights.len());
        let weights_f32: Vec<f32> = weights.iter().map(|&w| w as f32).collect();
        let part_rows = rows.div_ceil(PARTS).max(1);
        let parts = rows.div_ceil(part_rows);
        let mut partial: Vec<(f64, Buffer)> = (0..parts).map(|_| (0.0, Buffer::uninit(size))).collect();
        for_each_chunk(&mut partial, 1, |i, part| {
            let (loss, gradient) = &mut part[0];
            *loss = self.part(i * part_rows..rows.min((i + 1) * part_rows), &weights_f32, gradient);
        });
        let share = 1.0 / rows.max(1) as f64;
        let mut loss = partial.iter().map(|(loss, _)| loss).sum::<f64>() * share;
        gradient.fill(0.0);
        for (_, partial) in &partial {
            gradient.iter_mut().zip(&partial[..]).for_each(|(g, &p)| *g += p as f64);
        }
        for (i, (g, &w)) in gradient.iter_mut().zip(weights).enumerate() {
            *g *= share;
            if i % width != width - 1 {
                *g += regularization * w;
                loss += 0.5 * regularization * w * w;
            }
        }
        loss
    }

    /// Returns the summed loss of `rows`; writes their gradient to `gradient` [classes, width].
    fn part(&self, rows: std::ops::Range<usize>, weights: &[f32], gradient: &mut [f32]) -> f64 {
        let (width, classes) = (self.width, self.classes);
        let weights = Matrix::new(weights, classes, width);
        let mut scratch = Buffer::uninit(BLOCK * classes);
        let mut loss = 0.0;
        for first in rows.clone().step_by(BLOCK) {
            let count = BLOCK.min(rows.end - first);
            let inputs = Matrix::new(&self.inputs[first * width..][..count * width], count, width);
            let logits = &mut scratch[..count * classes]; // [count, classes], then softmax minus one-hot
            matmul_serial(logits, inputs, weights.t(), false);
            for (row, &label) in logits.chunks_exact_mut(classes).zip(&self.labels[first..]) {
                loss += cross_entropy(row, label as usize);
            }
            matmul_serial(gradient, Matrix::new(logits, count, classes).t(), inputs, first > rows.start);
        }
        loss
    }
}

/// Returns -ln softmax(logits)`[label]`. Replaces the logits with softmax(logits) minus the one-hot
/// label.
fn cross_entropy(logits: &mut [f32], label: usize) -> f64 {
    let label_logit = logits[label];
    let (top, sum) = with_simd(
        #[inline(always)]
        || {
            let top = max(logits);
            logits.iter_mut().for_each(|v| *v = exp(*v - top));
            let sum = sum_by([logits], |[e]| e);
            let inverse = 1.0 / sum;
            logits.iter_mut().for_each(|v| *v *= inverse);
            (top, sum)
        },
    );
    logits[label] -= 1.0;
    (sum as f64).ln() + top as f64 - label_logit as f64
}

/// Returns the most likely class of each input [rows, width] under `weights` [classes, width]. The
/// lower class wins a tie.
pub(super) fn predict(inputs: &[f32], width: usize, weights: &[f64], classes: usize) -> Vec<u32> {
    let rows = inputs.len() / width;
    let weights: Vec<f32> = weights.iter().map(|&w| w as f32).collect();
    let mut logits = vec![0.0f32; rows * classes];
    matmul(&mut logits, Matrix::new(inputs, rows, width), Matrix::new(&weights, classes, width).t(), false, |_, _| {});
    let best = |row: &[f32]| (1..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best }) as u32;
    logits.chunks_exact(classes.max(1)).map(best).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Reference implementation in f64, one row at a time.
    pub fn plain(problem: &Problem, weights: &[f64], regularization: f64) -> (f64, Vec<f64>) {
        let (width, classes, rows) = (problem.width, problem.classes, problem.labels.len() as f64);
        let (mut loss, mut gradient) = (0.0, vec![0.0; weights.len()]);
        for (x, &label) in problem.inputs.chunks_exact(width).zip(&problem.labels) {
            let logit = |c: usize| x.iter().zip(&weights[c * width..]).map(|(x, w)| *x as f64 * w).sum::<f64>();
            let logits: Vec<f64> = (0..classes).map(logit).collect();
            let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|l| (l - top).exp()).sum();
            loss += (sum.ln() + top - logits[label as usize]) / rows;
            for (c, logit) in logits.iter().enumerate() {
                let error = (logit - top).exp() / sum - (c == label as usize) as usize as f64;
                x.iter().zip(&mut gradient[c * width..]).for_each(|(x, g)| *g += error * *x as f64 / rows);
            }
        }
        for (i, w) in weights.iter().enumerate().filter(|(i, _)| i % width != width - 1) {
            loss += 0.5 * regularization * w * w;
            gradient[i] += regularization * w;
        }
        (loss, gradient)
    }

    #[test]
    fn loss_and_gradient_are_those_of_f64_for_any_number_of_threads() {
        let (rows, width, classes) = (PARTS * BLOCK + 700, 6, 5);
        let inputs = (0..rows * width).map(|i| if i % width == width - 1 { 1.0 } else { ((i * i) as f32 * 0.37).sin() }).collect();
        let labels = (0..rows as u32).map(|i| i * i % 5).collect();
        let problem = Problem { inputs, width, labels, classes };
        let weights: Vec<f64> = (0..width * classes).map(|i| (i as f64 * 1.7).cos()).collect();
        let (loss, gradient) = plain(&problem, &weights, 0.3);
        let mut got = vec![9.0; weights.len()];
        let value = problem.loss(&weights, 0.3, &mut got);
        assert!((value - loss).abs() < 1e-6, "{value} {loss}");
        assert!(got.iter().zip(&gradient).all(|(a, b)| (a - b).abs() < 1e-6));
        let before = mimco_engine::cpu::threads::threads();
        mimco_engine::cpu::threads::set_threads(5);
        let mut again = vec![0.0; weights.len()];
        assert_eq!(problem.loss(&weights, 0.3, &mut again), value);
        mimco_engine::cpu::threads::set_threads(before);
        assert_eq!(again, got);
    }
}
