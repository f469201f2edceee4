//! The linear probe: multinomial logistic regression on features that are computed once.

use super::checks::{check_sets, percent_right};
use super::features::Features;
use super::lbfgs::{Minimum, Stop, minimise};
use super::softmax::{Problem, predict};
use crate::Error;
use mimco_data::random::{Purpose, permutation};
use mimco_engine::cpu::gemm::{Matrix, matmul, matmul_strided};
use mimco_engine::cpu::threads::for_each_chunk;
use nalgebra::{DMatrix, SymmetricEigen};

/// Strengths of regularisation to choose from, strong to weak: each begins where the one before ended.
const GRID: [f64; 7] = [1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6];
/// Weaker ones are not tried after so many in a row that did worse than the best: they overfit more, and take the longest.
const WORSE: usize = 2;
/// Share of the training set that chooses: one in so many.
const HELD_OUT: usize = 5;
/// What is taken where the training set is too small to hold anything out.
const UNCHOSEN: f64 = 1e-2;
/// Fits that choose need be no better than what a validation image tells; scikit-learn's tolerance.
const CHOOSING: Stop = Stop { tolerance: 1e-4, steps: 200 };
/// The last fit.
const LAST: Stop = Stop { tolerance: 1e-5, steps: 1000 };
/// Features wider than this are not turned to their principal axes: that takes width³ operations.
const MAX_TURNED: usize = 1024;
/// Rows that are prepared at a time.
const BLOCK: usize = 256;

/// What a linear probe found.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LinearResult {
    /// Accuracy on the validation set in percent.
    pub top1: f64,
    /// The chosen strength of regularisation.
    pub regularisation: f64,
    /// Whether the last fit reached its tolerance (largest element of the gradient 1e-5).
    pub converged: bool,
}

/// Trains a linear classifier on the training features [rows, width] and measures it on the validation features.
///
/// Columns are standardised by the training set. The loss is the mean cross entropy + regularisation / 2 · Σ W², biases free. The
/// regularisation, of 1, 0.1, ..., 1e-6, is the one (the strongest among equals) with the best accuracy on a fifth of the training set,
/// drawn by `seed`; then all of the training set is fitted. No augmentation.
///
/// # Errors
/// Sets that are empty or do not fit each other or their labels.
pub fn linear_top1(
    train: &Features,
    train_labels: &[u32],
    val: &Features,
    val_labels: &[u32],
    classes: usize,
    seed: u64,
) -> Result<LinearResult, Error> {
    check_sets(train, train_labels, val, val_labels, classes)?;
    let view = View::of(train);
    let all = Problem { inputs: view.apply(train), width: view.width(), labels: train_labels.to_vec(), classes };
    let (regularisation, start) = choose(&all, &view, seed);
    let fitted = fit(&all, &view, regularisation, start, LAST);
    if !fitted.converged {
        tracing::warn!("the linear probe stopped short of its minimum; its accuracy may be a little low");
    }
    let predicted = predict(&view.apply(val), view.width(), &fitted.x, classes);
    Ok(LinearResult { top1: percent_right(&predicted, val_labels), regularisation, converged: fitted.converged })
}

/// The regularisation that does best on held-out rows, and the weights it gave.
fn choose(all: &Problem, view: &View, seed: u64) -> (f64, Vec<f64>) {
    let rows = all.labels.len();
    let mut weights = vec![0.0; all.classes * all.width];
    let order = permutation(rows, seed, Purpose::Probe, 1);
    let (held, kept) = order.split_at(rows / HELD_OUT);
    if held.is_empty() {
        return (UNCHOSEN, weights);
    }
    let (held, kept) = (rows_of(all, held), rows_of(all, kept));
    let mut best = (f64::NEG_INFINITY, UNCHOSEN, Vec::new());
    let mut worse = 0;
    for regularisation in GRID {
        weights = fit(&kept, view, regularisation, weights, CHOOSING).x;
        let top1 = percent_right(&predict(&held.inputs, held.width, &weights, held.classes), &held.labels);
        tracing::debug!("linear probe: regularisation {regularisation:.0e}, {top1:.2} % of the held-out images");
        if top1 > best.0 {
            best = (top1, regularisation, weights.clone());
        }
        worse = if top1 < best.0 { worse + 1 } else { 0 };
        if worse == WORSE {
            break;
        }
    }
    (best.1, best.2)
}

fn rows_of(all: &Problem, rows: &[u32]) -> Problem {
    let input = |&row: &u32| &all.inputs[row as usize * all.width..][..all.width];
    Problem {
        inputs: rows.iter().flat_map(input).copied().collect(),
        labels: rows.iter().map(|&row| all.labels[row as usize]).collect(),
        ..*all
    }
}

fn fit(problem: &Problem, view: &View, regularisation: f64, start: Vec<f64>, stop: Stop) -> Minimum {
    // The curvature along a principal axis is at most half its variance (Böhning 1992), plus the regularisation, for every class.
    let axis = view.variances.iter().map(|variance| 1.0 / (0.5 * variance + regularisation)).chain([2.0]);
    let scale: Vec<f64> = axis.cycle().take(start.len()).collect();
    minimise(start, &scale, stop, |weights, gradient| problem.loss(weights, regularisation, gradient))
}

/// How features are seen by the classifier: standardised, turned to their principal axes, with a 1 for the bias.
///
/// The turn changes nothing but the speed: Σ W² is the same along any axes, and along these the curvature is known.
struct View {
    mean: Vec<f32>,
    /// One over the deviation; 0 for a column that is constant.
    scale: Vec<f32>,
    /// The axes as columns [width, width].
    axes: Option<Vec<f32>>,
    /// Variance along each axis `[width]`.
    variances: Vec<f64>,
}

impl View {
    fn of(train: &Features) -> View {
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
        // A deviation below what an f32 of this size can tell is rounding.
        let constant = |(v, m): (&f64, &f64)| v.sqrt() <= m.abs() * f32::EPSILON as f64;
        let scale = variance.iter().zip(&mean).map(|(v, m)| if constant((v, m)) { 0.0 } else { (1.0 / v.sqrt()) as f32 }).collect();
        let mut view = View { mean: mean.iter().map(|&m| m as f32).collect(), scale, axes: None, variances: vec![1.0; width] };
        if width <= MAX_TURNED {
            view.turn(train);
        }
        view
    }

    /// Finds the principal axes of the standardised features.
    fn turn(&mut self, train: &Features) {
        let (rows, width) = (train.rows(), train.width());
        let mut standard = train.data().to_vec();
        for_each_chunk(&mut standard, BLOCK * width, |_, block| self.standardise(block));
        let standard = Matrix::new(&standard, rows, width);
        let mut gram = vec![0.0f32; width * width];
        matmul(&mut gram, standard.t(), standard, false, |_, _| {});
        let gram = DMatrix::from_iterator(width, width, gram.iter().map(|&v| v as f64 / rows as f64));
        let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(gram);
        self.axes = Some(eigenvectors.transpose().iter().map(|&v| v as f32).collect());
        self.variances = eigenvalues.iter().map(|v| v.max(0.0)).collect();
    }

    /// Numbers of an input: the feature's and a 1.
    fn width(&self) -> usize {
        self.mean.len() + 1
    }

    fn standardise(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.mean.len()) {
            row.iter_mut().zip(&self.mean).zip(&self.scale).for_each(|((v, mean), scale)| *v = (*v - mean) * scale);
        }
    }

    /// Features [rows, width] -> inputs [rows, width + 1].
    fn apply(&self, features: &Features) -> Vec<f32> {
        let (width, wider) = (self.mean.len(), self.width());
        let mut inputs = vec![0.0f32; features.rows() * wider];
        for_each_chunk(&mut inputs, BLOCK * wider, |block, inputs| {
            let rows = inputs.len() / wider;
            let mut standard = features.data()[block * BLOCK * width..][..rows * width].to_vec();
            self.standardise(&mut standard);
            match &self.axes {
                Some(axes) => {
                    let (standard, axes) = (Matrix::new(&standard, rows, width), Matrix::new(axes, width, width));
                    matmul_strided(inputs, wider, standard, axes, false, 1.0);
                }
                None => inputs.chunks_exact_mut(wider).zip(standard.chunks_exact(width)).for_each(|(i, s)| i[..width].copy_from_slice(s)),
            }
            inputs.chunks_exact_mut(wider).for_each(|input| input[width] = 1.0);
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

    /// `classes` clouds around corners `apart` from the centre, in columns of very unlike sizes and correlations, the last one constant.
    fn clouds(rows: usize, width: usize, classes: usize, apart: f32, seed: u64) -> (Features, Vec<u32>) {
        let labels: Vec<u32> = (0..rows as u32).map(|i| i % classes as u32).collect();
        let mut rng = keyed(seed, Purpose::Init, 0, 0);
        let mut data = Vec::with_capacity(rows * width);
        for &label in &labels {
            let shared = between(&mut rng, -1.0, 1.0);
            for column in 0..width - 1 {
                let centre = if column % classes == label as usize { apart } else { 0.0 };
                let value = centre + 0.3 * between(&mut rng, -1.0, 1.0) + shared;
                data.push(value * 10f32.powi(column as i32 % 5 - 2) + column as f32);
            }
            data.push(0.1);
        }
        (Features::new(width, data), labels)
    }

    #[test]
    fn the_fit_is_a_minimum_by_f64() {
        let (train, labels) = clouds(500, 12, 4, 0.2, 1);
        let view = View::of(&train);
        let problem = Problem { inputs: view.apply(&train), width: view.width(), labels, classes: 4 };
        for regularisation in [1e-1, 1e-4] {
            let fitted = fit(&problem, &view, regularisation, vec![0.0; 4 * 13], LAST);
            let (_, gradient) = plain(&problem, &fitted.x, regularisation);
            let worst = gradient.iter().fold(0.0f64, |worst, g| worst.max(g.abs()));
            assert!(fitted.converged && worst < 2e-5, "{worst}");
        }
    }

    #[test]
    fn known_minima_are_found() {
        // x = -1 or 1 tells the class in three of four cases: σ(2w) = 3/4 with W = (-w, w).
        let train = Features::new(1, [-1.0, 1.0].repeat(4));
        let labels = vec![0, 1, 0, 1, 0, 1, 1, 0];
        let view = View::of(&train);
        let problem = Problem { inputs: view.apply(&train), width: 2, labels, classes: 2 };
        let fitted = fit(&problem, &view, 1e-9, vec![0.0; 4], LAST);
        let slope = (fitted.x[2] - fitted.x[0]).abs() / 2.0;
        assert!((slope - 3f64.ln() / 2.0).abs() < 1e-4, "{:?}", fitted.x);
        // Constant columns tell nothing: biases become the logarithms of the classes' shares, and the commonest class is said.
        let flat = Features::new(3, vec![0.1; 3 * 40]);
        let labels: Vec<u32> = (0..40).map(|i| (i % 4 == 0) as u32).collect();
        let view = View::of(&flat);
        let problem = Problem { inputs: view.apply(&flat), width: 4, labels: labels.clone(), classes: 2 };
        let fitted = fit(&problem, &view, 1e-3, vec![0.0; 8], LAST);
        assert!((fitted.x[3] - fitted.x[7] - 3f64.ln()).abs() < 1e-4, "{:?}", fitted.x);
        assert_eq!(linear_top1(&flat, &labels, &flat, &labels, 2, 0).unwrap().top1, 75.0);
    }

    #[test]
    fn separable_clouds_are_told_apart_whatever_the_number_of_threads() {
        let ((train, labels), (val, val_labels)) = (clouds(900, 21, 5, 2.0, 1), clouds(300, 21, 5, 2.0, 2));
        let found = linear_top1(&train, &labels, &val, &val_labels, 5, 7).unwrap();
        assert_eq!((found.top1, found.converged), (100.0, true));
        let ((train, labels), (val, val_labels)) = (clouds(900, 21, 5, 0.15, 3), clouds(300, 21, 5, 0.15, 4));
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
    fn the_smallest_sets_are_probed() {
        let two = Features::new(2, vec![0.0, 1.0, 1.0, 0.0]);
        assert_eq!(linear_top1(&two, &[0, 1], &two, &[0, 1], 2, 0).unwrap().top1, 100.0);
    }
}
