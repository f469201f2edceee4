//! Optimizers, the gradient's norm and the momentum encoder's update against plain f64, across the boundaries of their blocks.

use mimco_engine::optim::{Optimizer, Rule, clip_factor, gradient_norm, momentum_update};
use mimco_engine::{ParameterId, Parameters};

/// Of two blocks and a bit.
const LONG: usize = 2 * 16 * 1024 + 5;

/// Numbers in -1..1 without a pattern that matters.
fn numbers(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 20_011) as f32 / 10_005.5 - 1.0).collect()
}

fn close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((*f as f64 - e).abs() <= 2e-6 * e.abs().max(1.0), "{what} at {i}: {f} for {e}");
    }
}

/// A matrix with decay, a vector without decay at half the rate, and a frozen one.
fn parameters() -> (Parameters, [ParameterId; 3]) {
    let mut parameters = Parameters::new();
    let ids = [parameters.add("matrix", &[5, LONG / 5]), parameters.add("vector", &[37]), parameters.add("frozen", &[3, 3])];
    for (seed, id) in ids.into_iter().enumerate() {
        let values = numbers(seed, parameters.get(id).len());
        parameters.get_mut(id).copy_from_slice(&values);
    }
    parameters.entry_mut(ids[1]).rate = 0.5;
    parameters.entry_mut(ids[2]).trainable = false;
    (parameters, ids)
}

/// Five steps of `rule` and of `plain(weight, gradient, moments, rate, decay, step)`, the gradients clipped by 0.25.
fn check(rule: Rule, plain: impl Fn(&mut f64, f64, &mut [f64; 2], f64, f64, i32)) {
    const RATE: f32 = 0.01;
    const DECAY: f32 = 0.1;
    let (mut parameters, ids) = parameters();
    let frozen = parameters.get(ids[2]).to_vec();
    let mut optimizer = Optimizer::new(rule, DECAY, &parameters);
    let mut expected = ids.map(|id| parameters.get(id).iter().map(|&w| (w as f64, [0.0f64; 2])).collect::<Vec<_>>());
    for step in 1..=5 {
        let mut gradients = parameters.zeros_like();
        let drawn = numbers(10 + step, gradients.len());
        gradients.copy_from_slice(&drawn);
        let rate = RATE / step as f32;
        for (which, (rate_factor, decay)) in [(1.0, DECAY as f64), (0.5, 0.0)].into_iter().enumerate() {
            let range = parameters.entry(ids[which]).range.clone();
            for ((w, moments), g) in expected[which].iter_mut().zip(&gradients[range]) {
                plain(w, *g as f64 * 0.25, moments, rate as f64 * rate_factor, decay, step as i32);
            }
        }
        optimizer.step(&mut parameters, &gradients, rate, 0.25);
    }
    assert_eq!(optimizer.steps(), 5);
    for (which, id) in ids.into_iter().take(2).enumerate() {
        let weights: Vec<f64> = expected[which].iter().map(|(w, _)| *w).collect();
        close(parameters.get(id), &weights, "weights");
        for (moment, (name, found)) in optimizer.moments().iter().enumerate() {
            let expected: Vec<f64> = expected[which].iter().map(|(_, m)| m[moment]).collect();
            close(&found[parameters.entry(id).range.clone()], &expected, name);
        }
    }
    assert_eq!(parameters.get(ids[2]), frozen, "the frozen one stays");
}

#[test]
fn adamw() {
    let (beta1, beta2, eps) = (0.9f32, 0.95f32, 1e-6f32);
    let (b1, b2) = (beta1 as f64, beta2 as f64);
    check(Rule::AdamW { beta1, beta2, eps }, |w, g, [m, v], rate, decay, step| {
        *m = b1 * *m + (1.0 - b1) * g;
        *v = b2 * *v + (1.0 - b2) * g * g;
        let (m, v) = (*m / (1.0 - b1.powi(step)), *v / (1.0 - b2.powi(step)));
        *w -= rate * (m / (v.sqrt() + eps as f64) + decay * *w);
    });
}

#[test]
fn sgd() {
    check(Rule::Sgd { momentum: 0.75 }, |w, g, [m, _], rate, decay, _| {
        *m = 0.75 * *m + g + decay * *w;
        *w -= rate * *m;
    });
}

/// A run that goes on from a checkpoint takes the very steps of one that was never stopped.
#[test]
fn moments_and_steps_carry_an_optimizer_over() {
    let rule = Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    let (mut through, _) = parameters();
    let mut first = Optimizer::new(rule, 0.1, &through);
    let mut gradients = through.zeros_like();
    let drawn = numbers(3, gradients.len());
    gradients.copy_from_slice(&drawn);
    first.step(&mut through, &gradients, 0.01, 1.0);
    let mut resumed = through.clone();
    let mut second = Optimizer::new(rule, 0.1, &resumed);
    for ((_, to), (_, from)) in second.moments_mut().iter_mut().zip(first.moments()) {
        to.copy_from_slice(from);
    }
    second.set_steps(first.steps());
    first.step(&mut through, &gradients, 0.01, 1.0);
    second.step(&mut resumed, &gradients, 0.01, 1.0);
    assert!(through.flat() == resumed.flat());
}

#[test]
fn norm_and_clipping() {
    for len in [0, 1, 255, 257, LONG] {
        let gradients = numbers(1, len);
        let plain = gradients.iter().map(|&g| (g as f64).powi(2)).sum::<f64>().sqrt();
        assert!((gradient_norm(&gradients) as f64 - plain).abs() <= 1e-6 * plain, "{len}");
    }
    assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
    assert_eq!((clip_factor(0.5, 1.0), clip_factor(4.0, 0.0), clip_factor(0.0, 1.0)), (1.0, 1.0, 1.0));
}

#[test]
fn a_norm_that_is_not_finite_is_never_clipped_into_shape() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 17, 16 * 1024, LONG - 1] {
            let mut gradients = numbers(1, LONG);
            gradients[place] = value;
            assert!(!gradient_norm(&gradients).is_finite(), "{value} at {place}");
        }
    }
    assert!(clip_factor(f32::NAN, 1.0).is_nan());
    assert_eq!(clip_factor(f32::INFINITY, 1.0), 0.0);
}

#[test]
fn momentum_update_is_a_weighted_mean() {
    let (mut target, source) = (numbers(1, LONG), numbers(2, LONG + 40));
    let expected: Vec<f64> = target.iter().zip(&source).map(|(&t, &s)| 0.75 * t as f64 + 0.25 * s as f64).collect();
    momentum_update(&mut target, &source, 0.75);
    close(&target, &expected, "target");
}

#[test]
fn parameters_keep_their_values_as_others_are_added() {
    let mut parameters = Parameters::new();
    for i in 0..20 {
        let id = parameters.add(format!("p{i}"), &[i, 3]);
        parameters.get_mut(id).fill(i as f32 + 1.0);
    }
    for (i, entry) in parameters.entries().iter().enumerate() {
        assert_eq!((entry.range.start % 16, entry.range.len()), (0, 3 * i));
        assert!(parameters.flat()[entry.range.clone()].iter().all(|v| *v == i as f32 + 1.0));
    }
    // What lies between the ranges stays 0, so that norms over the whole buffer are the parameters' alone.
    let total: f32 = parameters.flat().iter().sum();
    assert_eq!(total, (0..20).map(|i| (3 * i * (i + 1)) as f32).sum::<f32>());
    assert_eq!(parameters.zeros_like().len(), parameters.flat().len());
}
