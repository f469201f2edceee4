//! The least value of a smooth convex function by L-BFGS (Nocedal and Wright 2006, algorithms 7.4 and 3.1).
//!
//! Own code: argmin, the one well-kept crate with it, brings its own vector traits and takes neither a scale for each unknown nor a
//! function that gives value and gradient in one pass over the data.

use std::collections::VecDeque;

/// Steps whose change of gradient is remembered.
const HISTORY: usize = 10;
/// Share of the decrease foretold by the slope that a step must bring (Armijo's condition).
const ARMIJO: f64 = 1e-4;
/// Trials of a line search.
const TRIALS: usize = 20;
/// Relative noise of the objective, which is computed in f32: a rise below it is none.
const NOISE: f64 = 1e-7;

/// When to stop.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    /// Largest element of the gradient at which the minimum is found.
    pub tolerance: f64,
    /// Steps.
    pub steps: usize,
}

/// Where the search ended.
pub(super) struct Minimum {
    /// The unknowns.
    pub x: Vec<f64>,
    /// Whether the gradient is within the tolerance.
    pub converged: bool,
}

/// Walks from `x` down to the minimum. `objective(x, gradient)` writes the gradient and returns the value; `scale` is a guess of the
/// inverse curvature along each unknown.
pub(super) fn minimise(mut x: Vec<f64>, scale: &[f64], stop: Stop, mut objective: impl FnMut(&[f64], &mut [f64]) -> f64) -> Minimum {
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
            // The least of the parabola through both values and the slope, not too far from the last trial.
            let parabola = -slope * step * step / (2.0 * (new_value - value - slope * step));
            step = parabola.clamp(0.1 * step, 0.5 * step);
            false
        });
        if !found {
            if history.is_empty() {
                break;
            }
            history.clear(); // what was remembered misleads; begin again along the gradient
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

/// A step, the change of the gradient over it, and their product.
struct Pair {
    s: Vec<f64>,
    y: Vec<f64>,
    sy: f64,
    /// How much the scale is to be stretched to agree with this step.
    gamma: f64,
}

/// The two loops of the recursion: minus the inverse curvature, as remembered, times the gradient.
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

fn within(gradient: &[f64], tolerance: f64) -> bool {
    gradient.iter().all(|g| g.abs() <= tolerance)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(a: &mut [f64], s: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += s * b);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_badly_scaled_bowl_and_a_flat_one_are_solved() {
        // Σ c (x - t)² / 2 with curvatures 1 to 100, and a quartic part that no scale describes.
        let curvature = |i: usize| 10f64.powf(i as f64 * 2.0 / 29.0);
        let target = |i: usize| (i as f64 * 0.7).sin();
        let mut calls = 0;
        let mut bowl = |quartic: f64| {
            let found = minimise(vec![0.0; 30], &[1e-2; 30], Stop { tolerance: 1e-7, steps: 300 }, |x, gradient| {
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
    fn too_few_steps_are_told() {
        let found = minimise(vec![5.0], &[0.1], Stop { tolerance: 1e-9, steps: 2 }, |x, gradient| {
            gradient[0] = x[0].powi(3);
            x[0].powi(4) / 4.0
        });
        assert!(!found.converged && found.x[0] < 5.0);
    }
}
