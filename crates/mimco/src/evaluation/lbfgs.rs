//! L-BFGS minimization of a smooth convex function (Nocedal and Wright 2006, algorithms 7.4 and
//! 3.1).
//!
//! This is own code: `argmin`, the maintained crate with L-BFGS, brings its own vector traits. It
//! accepts neither a scale per variable nor an objective that returns value and gradient in one
//! pass.

use std::collections::VecDeque;

/// Number of past steps that approximate the curvature.
const HISTORY: usize = 10;
/// Required decrease as a share of the decrease that the slope predicts (Armijo condition).
const ARMIJO: f64 = 1e-4;
/// Maximum number of trials in a line search.
const TRIALS: usize = 20;
/// Relative noise of the objective, computed in f32. The line search tolerates increases below it.
const NOISE: f64 = 1e-7;

/// Stopping rule.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    /// Convergence threshold for the largest absolute element of the gradient.
    pub tolerance: f64,
    /// Maximum number of steps.
    pub steps: usize,
}

/// Result of a minimization.
pub(super) struct Minimum {
    /// Variables at the end of the search.
    pub x: Vec<f64>,
    /// Whether the gradient is within the tolerance at `x`.
    pub converged: bool,
}

/// Minimizes `objective` from the starting point `x`.
///
/// `objective(x, gradient)` writes the gradient and returns the value. `scale` is an estimate of
/// the inverse curvature of each variable.
pub(super) fn minimize(mut x: Vec<f64>, scale: &[f64], stop: Stop, mut objective: impl FnMut(&[f64], &mut [f64]) -> f64) -> Minimum {
    let n = x.len();
    let (mut gradient, mut new_x, mut new_gradient) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
    let mut value = objective(&x, &mut gradient);
    let mut history: VecDeque<Pair> = VecDeque::new();
    for _ in 0..stop.steps {
        if within(&gradient, stop.tolerance) {
            return Minimum { x, converged: true };
        }
        let direction = descent(&gradient, scale, &history);
        let slope = dot(&gradient, &direction);
        let mut step = 1.0;
        let found = (0..TRIALS).any(|_| {
            new_x.iter_mut().zip(&x).zip(&direction).for_each(|((new, x), d)| *new = x + step * d);
            let new_value = objective(&new_x, &mut new_gradient);
            if new_value <= value + ARMIJO * step * slope + NOISE * value.abs() {
                value = new_value;
                return true;
            }
            // Minimum of the parabola through both values and the slope, at 0.1 to 0.5 of the last
            // step.
            let parabola = -slope * step * step / (2.0 * (new_value - value - slope * step));
            step = parabola.clamp(0.1 * step, 0.5 * step);
            false
        });
        if !found {
            if history.is_empty() {
                break;
            }
            history.clear(); // the curvature estimate misleads: restart along the scaled gradient
            continue;
        }
        let s: Vec<f64> = new_x.iter().zip(&x).map(|(a, b)| a - b).collect();
        let y: Vec<f64> = new_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        std::mem::swap(&mut x, &mut new_x);
        std::mem::swap(&mut gradient, &mut new_gradient);
        let sy = dot(&s, &y);
        if sy > f64::EPSILON * dot(&y, &y) {
            if history.len() == HISTORY {
                history.pop_front();
            }
            let gamma = sy / y.iter().zip(scale).map(|(y, scale)| y * y * scale).sum::<f64>();
            history.push_back(Pair { s, y, sy, gamma });
        }
    }
    let converged = within(&gradient, stop.tolerance);
    Minimum { x, converged }
}

/// Curvature pair of one step.
struct Pair {
    /// Step.
    s: Vec<f64>,
    /// Change of the gradient over the step.
    y: Vec<f64>,
    /// Dot product of `s` and `y`.
    sy: f64,
    /// Factor that fits the scale to the curvature along this step.
    gamma: f64,
}

/// Returns the descent direction by the two-loop recursion: minus the approximate inverse Hessian
/// times the gradient.
fn descent(gradient: &[f64], scale: &[f64], history: &VecDeque<Pair>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = [0.0; HISTORY];
    for (pair, alpha) in history.iter().zip(&mut alphas).rev() {
        *alpha = dot(&pair.s, &q) / pair.sy;
        add_scaled(&mut q, -*alpha, &pair.y);
    }
    let gamma = history.back().map_or(1.0, |pair| pair.gamma);
    q.iter_mut().zip(scale).for_each(|(q, scale)| *q *= gamma * scale);
    for (pair, alpha) in history.iter().zip(&alphas) {
        let beta = dot(&pair.y, &q) / pair.sy;
        add_scaled(&mut q, alpha - beta, &pair.s);
    }
    q
}

/// Returns true if no element of the gradient exceeds the tolerance.
fn within(gradient: &[f64], tolerance: f64) -> bool {
    gradient.iter().all(|g| g.abs() <= tolerance)
}

/// Returns the dot product.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Adds `s` times `b` to `a`.
fn add_scaled(a: &mut [f64], s: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += s * b);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_badly_scaled_bowl_and_a_flat_one_are_solved() {
        // Σ c (x - t)² / 2 with curvatures c from 1 to 100, plus a quartic term that no scale fits.
        let curvature = |i: usize| 10f64.powf(i as f64 * 2.0 / 29.0);
        let target = |i: usize| (i as f64 * 0.7).sin();
        let mut calls = 0;
        let mut bowl = |quartic: f64| {
            let found = minimize(vec![0.0; 30], &[1e-2; 30], Stop { tolerance: 1e-7, steps: 300 }, |x, gradient| {
                calls += 1;
                let mut value = 0.0;
                for (i, (x, g)) in x.iter().zip(gradient).enumerate() {
                    let d = x - target(i);
                    value += curvature(i) * d * d / 2.0 + quartic * d.powi(4) / 4.0;
                    *g = curvature(i) * d + quartic * d.powi(3);
                }
                value
            });
            assert!(found.converged);
            assert!(found.x.iter().enumerate().all(|(i, x)| (x - target(i)).abs() < 1e-6));
        };
        bowl(0.0);
        bowl(50.0);
        assert!(calls < 300, "{calls}");
    }

    #[test]
    fn too_few_steps_do_not_converge() {
        let found = minimize(vec![5.0], &[0.1], Stop { tolerance: 1e-9, steps: 2 }, |x, gradient| {
            gradient[0] = x[0].powi(3);
            x[0].powi(4) / 4.0
        });
        assert!(!found.converged && found.x[0] < 5.0);
    }
}
