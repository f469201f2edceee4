//! Linear probe: multinomial logistic regression on frozen features.

use super::checks::{check_sets, percent_correct};
use super::features::Features;
use super::lbfgs::{Minimum, Stop, minimize};
use super::softmax::{Problem, predict};
use crate::Error;
use mimco_data::random::{Purpose, permutation};
use mimco_engine::cpu::gemm::{Matrix, matmul, matmul_strided};
use mimco_engine::cpu::threads::for_each_chunk;
use nalgebra::{DMatrix, SymmetricEigen};

/// Candidate regularization strengths, strong to weak. Each fit starts from the previous solution.
const GRID: [f64; 7] = [1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6];
/// Number of candidates in a row below the best accuracy after which the search stops. Weaker
/// regularization overfits more and takes longest to fit.
const PATIENCE: usize = 2;
/// The selection holds out one in this many training rows.
const HELD_OUT: usize = 5;
/// Regularization if the training set is too small to hold out a row.
const DEFAULT_REGULARIZATION: f64 = 1e-2;
/// Stopping rule of the fits that select the regularization; scikit-learn's tolerance.
const SELECTION_STOP: Stop = Stop { tolerance: 1e-4, steps: 200 };
/// Stopping rule of the final fit.
const FINAL_STOP: Stop = Stop { tolerance: 1e-5, steps: 1000 };
/// Largest width at which features are rotated to their principal axes, in O(width³) operations.
const MAX_ROTATED_WIDTH: usize = 1024;
/// Rows per work item of a thread.
const BLOCK: usize = 256;

/// Result of a linear probe.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LinearResult {
    /// Accuracy on the validation set in percent.
    pub top1: f64,
    /// Selected regularization strength.
    pub regularization: f64,
    /// Whether the final fit converged: no element of the gradient is above 1e-5.
    pub converged: bool,
}

/// Trains a linear classifier on the training features [rows, width] and evaluates it on the
/// validation features [rows, width].
///
/// Columns are standardized with the statistics of the training set. The loss is the mean cross
/// entropy + regularization / 2 · Σ W²; biases are not regularized. A random fifth of the training
/// set, drawn with `seed`, selects the regularization from 1, 0.1, ..., 1e-6 by accuracy; the
/// strongest wins a tie. The final fit uses the whole training set. There is no augmentation.
///
/// # Errors
/// - Empty sets, features of different widths, or features that are not finite.
/// - A number of labels other than the number of rows, or a label that is not below `classes`.
pub fn linear_top1(
    train: &Features,
    train_labels: &[u32],
    val: &Features,
    val_labels: &[u32],
    classes: usize,
    seed: u64,
) -> Result<LinearResult, Error> {
    check_sets(train, train_labels, val, val_labels, classes)?;
    let transform = InputTransform::fit(train);
    let all = Problem { inputs: transform.apply(train), width: transform.width(), labels: train_labels.to_vec(), classes };
    let (regularization, start) = select_regularization(&all, &transform, seed);
    let fitted = fit(&all, &transform, regularization, start, FINAL_STOP);
    if !fitted.converged {
        tracing::warn!("the linear probe did not converge; its accuracy may be slightly too low");
    }
    let predicted = predict(&transform.apply(val), transform.width(), &fitted.x, classes);
    Ok(LinearResult { top1: percent_correct(&predicted, val_labels), regularization, converged: fitted.converged })
}

/// Selects the regularization by accuracy on held-out rows. Returns it with its fitted weights.
fn select_regularization(all: &Problem, transform: &InputTransform, seed: u64) -> (f64, Vec<f64>) {
    let rows = all.labels.len();
    let mut weights = vec![0.0; all.classes * all.width];
    let order = permutation(rows, seed, Purpose::Probe, 1);
    let (held, kept) = order.split_at(rows / HELD_OUT);
    if held.is_empty() {
        return (DEFAULT_REGULARIZATION, weights);
    }
    let (held, kept) = (subset(all, held), subset(all, kept));
    let mut best = (f64::NEG_INFINITY, DEFAULT_REGULARIZATION, Vec::new());
    let mut worse = 0;
    for regularization in GRID {
        weights = fit(&kept, transform, regularization, weights, SELECTION_STOP).x;
        let top1 = percent_correct(&predict(&held.inputs, held.width, &weights, held.classes), &held.labels);
        tracing::debug!("linear probe: regularization {regularization:.0e}, {top1:.2} % accuracy on held-out images");
        if top1 > best.0 {
            best = (top1, regularization, weights.clone());
        }
        worse = if top1 < best.0 { worse + 1 } else { 0 };
        if worse == PATIENCE {
            break;
        }
    }
    (best.1, best.2)
}

/// Returns the problem restricted to `rows`.
fn subset(all: &Problem, rows: &[u32]) -> Problem {
    let input = |&row: &u32| &all.inputs[row as usize * all.width..][..all.width];
    Problem {
        inputs: rows.iter().flat_map(input).copied().collect(),
        labels: rows.iter().map(|&row| all.labels[row as usize]).collect(),
        ..*all
    }
}

/// Fits the weights [classes, width] by L-BFGS, starting from `start`.
fn fit(problem: &Problem, transform: &InputTransform, regularization: f64, start: Vec<f64>, stop: Stop) -> Minimum {
    // For every class, the curvature along a principal axis is at most half its variance (Böhning
    // 1992) plus the regularization.
    let axis = transform.variances.iter().map(|variance| 1.0 / (0.5 * variance + regularization)).chain([2.0]);
    let scale: Vec<f64> = axis.cycle().take(start.len()).collect();
    minimize(start, &scale, stop, |weights, gradient| problem.loss(weights, regularization, gradient))
}

/// Transform from features to classifier inputs: standardizes the columns, rotates them to their
/// principal axes and appends a 1 for the bias.
///
/// The rotation affects only the speed: it leaves Σ W² unchanged, and the curvature along principal
/// axes is known.
struct InputTransform {
    /// Mean of each column `[width]`.
    mean: Vec<f32>,
    /// 1 / std of each column `[width]`; 0 for constant columns.
    scale: Vec<f32>,
    /// Principal axes as columns [width, width]; `None` for wide features.
    axes: Option<Vec<f32>>,
    /// Variance along each axis `[width]`, or of each standardized column.
    variances: Vec<f64>,
}

impl InputTransform {
    /// Computes the transform of the training features.
    fn fit(train: &Features) -> InputTransform {
        let (rows, width) = (train.rows() as f64, train.width());
        let column_means = |f: &dyn Fn(usize, f64) -> f64| {
            let mut sums = vec![0.0f64; width];
            for row in train.data().chunks_exact(width) {
                sums.iter_mut().zip(row).enumerate().for_each(|(i, (sum, &v))| *sum += f(i, v as f64));
            }
            sums.iter_mut().for_each(|sum| *sum /= rows);
            sums
        };
        let mean = column_means(&|_, v| v);
        let variance = column_means(&|i, v| (v - mean[i]) * (v - mean[i]));
        // A std below the resolution of f32 at this mean is rounding error.
        let constant = |(v, m): (&f64, &f64)| v.sqrt() <= m.abs() * f32::EPSILON as f64;
        let scale = variance.iter().zip(&mean).map(|(v, m)| if constant((v, m)) { 0.0 } else { (1.0 / v.sqrt()) as f32 }).collect();
        let mut transform =
            InputTransform { mean: mean.iter().map(|&m| m as f32).collect(), scale, axes: None, variances: vec![1.0; width] };
        if width <= MAX_ROTATED_WIDTH {
            transform.rotate(train);
        }
        transform
    }

    /// Computes the principal axes of the standardized features.
    fn rotate(&mut self, train: &Features) {
        let (rows, width) = (train.rows(), train.width());
        let mut standard = train.data().to_vec();
        for_each_chunk(&mut standard, BLOCK * width, |_, block| self.standardize(block));
        let standard = Matrix::new(&standard, rows, width);
        let mut gram = vec![0.0f32; width * width];
        matmul(&mut gram, standard.t(), standard, false, |_, _| {});
        let gram = DMatrix::from_iterator(width, width, gram.iter().map(|&v| v as f64 / rows as f64));
        let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(gram);
        self.axes = Some(eigenvectors.transpose().iter().map(|&v| v as f32).collect());
        self.variances = eigenvalues.iter().map(|v| v.max(0.0)).collect();
    }

    /// Width of an input: the feature's width plus one for the bias.
    fn width(&self) -> usize {
        self.mean.len() + 1
    }

    /// Standardizes feature rows [rows, width] in place.
    fn standardize(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.mean.len()) {
            row.iter_mut().zip(&self.mean).zip(&self.scale).for_each(|((v, mean), scale)| *v = (*v - mean) * scale);
        }
    }

    /// Transforms features [rows, width] to inputs [rows, width + 1].
    fn apply(&self, features: &Features) -> Vec<f32> {
        let (width, input_width) = (self.mean.len(), self.width());
        let mut inputs = vec![0.0f32; features.rows() * input_width];
        for_each_chunk(&mut inputs, BLOCK * input_width, |block, inputs| {
            let rows = inputs.len() / input_width;
            let mut standard = features.data()[block * BLOCK * width..][..rows * width].to_vec();
            self.standardize(&mut standard);
            match &self.axes {
                Some(axes) => {
                    let (standard, axes) = (Matrix::new(&standard, rows, width), Matrix::new(axes, width, width));
                    matmul_strided(inputs, input_width, standard, axes, false, 1.0);
                }
                None => {
                    inputs.chunks_exact_mut(input_width).zip(standard.chunks_exact(width)).for_each(|(i, s)| i[..width].copy_from_slice(s))
                }
            }
            inputs.chunks_exact_mut(input_width).for_each(|input| input[width] = 1.0);
        });
        inputs
    }
}

#[cfg(test)]
mod tests {
    use super::super::softmax::tests::plain;
    use super::*;
    use mimco_data::random::{between, keyed};
    use mimco_engine::cpu::threads::{set_threads, threads};

    /// Returns `classes` clusters at distance `apart` from the center. The scales of the columns
    /// differ by powers of ten, the columns are correlated, and the last one is constant.
    fn clusters(rows: usize, width: usize, classes: usize, apart: f32, seed: u64) -> (Features, Vec<u32>) {
        let labels: Vec<u32> = (0..rows as u32).map(|i| i % classes as u32).collect();
        let mut rng = keyed(seed, Purpose::Init, 0, 0);
        let mut data = Vec::with_capacity(rows * width);
        for &label in &labels {
            let shared = between(&mut rng, -1.0, 1.0);
            for column in 0..width - 1 {
                let center = if column % classes == label as usize { apart } else { 0.0 };
                let value = center + 0.3 * between(&mut rng, -1.0, 1.0) + shared;
                data.push(value * 10f32.powi(column as i32 % 5 - 2) + column as f32);
            }
            data.push(0.1);
        }
        (Features::new(width, data), labels)
    }

    #[test]
    fn the_fit_is_a_minimum_in_f64() {
        let (train, labels) = clusters(500, 12, 4, 0.2, 1);
        let transform = InputTransform::fit(&train);
        let problem = Problem { inputs: transform.apply(&train), width: transform.width(), labels, classes: 4 };
        for regularization in [1e-1, 1e-4] {
            let fitted = fit(&problem, &transform, regularization, vec![0.0; 4 * 13], FINAL_STOP);
            let (_, gradient) = plain(&problem, &fitted.x, regularization);
            let worst = gradient.iter().fold(0.0f64, |worst, g| worst.max(g.abs()));
            assert!(fitted.converged && worst < 2e-5, "{worst}");
        }
    }

    #[test]
    fn known_minima_are_found() {
        // The sign of x predicts the class in three of four cases: σ(2w) = 3/4 with W = (-w, w).
        let train = Features::new(1, [-1.0, 1.0].repeat(4));
        let labels = vec![0, 1, 0, 1, 0, 1, 1, 0];
        let transform = InputTransform::fit(&train);
        let problem = Problem { inputs: transform.apply(&train), width: 2, labels, classes: 2 };
        let fitted = fit(&problem, &transform, 1e-9, vec![0.0; 4], FINAL_STOP);
        let slope = (fitted.x[2] - fitted.x[0]).abs() / 2.0;
        assert!((slope - 3f64.ln() / 2.0).abs() < 1e-4, "{:?}", fitted.x);
        // Constant columns carry no information: the biases become the log frequencies of the
        // classes, and the most frequent class is predicted.
        let flat = Features::new(3, vec![0.1; 3 * 40]);
        let labels: Vec<u32> = (0..40).map(|i| (i % 4 == 0) as u32).collect();
        let transform = InputTransform::fit(&flat);
        let problem = Problem { inputs: transform.apply(&flat), width: 4, labels: labels.clone(), classes: 2 };
        let fitted = fit(&problem, &transform, 1e-3, vec![0.0; 8], FINAL_STOP);
        assert!((fitted.x[3] - fitted.x[7] - 3f64.ln()).abs() < 1e-4, "{:?}", fitted.x);
        assert_eq!(linear_top1(&flat, &labels, &flat, &labels, 2, 0).unwrap().top1, 75.0);
    }

    #[test]
    fn clusters_are_separated_with_any_number_of_threads() {
        let ((train, labels), (val, val_labels)) = (clusters(900, 21, 5, 2.0, 1), clusters(300, 21, 5, 2.0, 2));
        let found = linear_top1(&train, &labels, &val, &val_labels, 5, 7).unwrap();
        assert_eq!((found.top1, found.converged), (100.0, true));
        let ((train, labels), (val, val_labels)) = (clusters(900, 21, 5, 0.15, 3), clusters(300, 21, 5, 0.15, 4));
        let before = threads();
        let with = |n: usize| {
            set_threads(n);
            linear_top1(&train, &labels, &val, &val_labels, 5, 7).unwrap()
        };
        let (one, three) = (with(1), with(3));
        set_threads(before);
        assert_eq!(one, three);
        assert!(one.top1 > 30.0 && one.top1 < 100.0, "{one:?}");
    }

    #[test]
    fn a_set_of_two_rows_is_probed() {
        let two = Features::new(2, vec![0.0, 1.0, 1.0, 0.0]);
        assert_eq!(linear_top1(&two, &[0, 1], &two, &[0, 1], 2, 0).unwrap().top1, 100.0);
    }
}
