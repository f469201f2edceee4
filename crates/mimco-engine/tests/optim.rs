//! Optimizers, the gradient's norm and the momentum encoder's update against plain f64, across the
//! boundaries of their blocks.

use mimco_engine::optim::{Optimizer, Rule, finite_flag, momentum_update};
use mimco_engine::{Gradients, ParameterId, Parameters, Tensor};

/// Two blocks and five elements.
const LONG: usize = 2 * 16 * 1024 + 5;

/// Numbers in -1..1 without a regular pattern.
fn numbers(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 20_011) as f32 / 10_005.5 - 1.0).collect()
}

fn close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((*f as f64 - e).abs() <= 2e-6 * e.abs().max(1.0), "{what} at {i}: {f} for {e}");
    }
}

/// A matrix with decay, a vector without decay at half the rate, and a frozen matrix.
fn parameters() -> (Parameters, [ParameterId; 3]) {
    let mut parameters = Parameters::new();
    let ids = [parameters.add("matrix", &[5, LONG / 5]), parameters.add("vector", &[37]), parameters.add("frozen", &[3, 3])];
    for (seed, id) in ids.into_iter().enumerate() {
        parameters.update_on_host(id, |to| to.copy_from_slice(&numbers(seed, to.len())));
    }
    parameters.entry_mut(ids[1]).rate = 0.5;
    parameters.entry_mut(ids[2]).trainable = false;
    (parameters, ids)
}

/// Gradients whose element at index i of the flat memory is that of `numbers(seed, ..)`.
fn gradients(parameters: &Parameters, ids: &[ParameterId], seed: usize) -> Gradients {
    let mut gradients = parameters.gradients();
    let drawn = numbers(seed, parameters.flat_len());
    for &id in ids {
        gradients.update_on_host(id, |to| to.copy_from_slice(&drawn[parameters.entry(id).range.clone()]));
    }
    gradients
}

/// A flag that lets an update happen.
fn finite() -> Tensor {
    Tensor::scalar(1.0)
}

/// Runs five steps of `rule` and of `plain(weight, gradient, moments, rate, decay, step)`, with the
/// gradients clipped by 0.25.
fn check(rule: Rule, plain: impl Fn(&mut f64, f64, &mut [f64; 2], f64, f64, i32)) {
    const RATE: f32 = 0.01;
    const DECAY: f32 = 0.1;
    let (mut parameters, ids) = parameters();
    let frozen = parameters.to_host(ids[2]).into_owned();
    let mut optimizer = Optimizer::new(rule, DECAY, &parameters);
    let mut expected = ids.map(|id| parameters.to_host(id).iter().map(|&w| (w as f64, [0.0f64; 2])).collect::<Vec<_>>());
    for step in 1..=5 {
        let gradients = gradients(&parameters, &ids, 10 + step);
        let rate = RATE / step as f32;
        for (which, (rate_factor, decay)) in [(1.0, DECAY as f64), (0.5, 0.0)].into_iter().enumerate() {
            for ((w, moments), g) in expected[which].iter_mut().zip(&gradients.to_host(ids[which])[..]) {
                plain(w, *g as f64 * 0.25, moments, rate as f64 * rate_factor, decay, step as i32);
            }
        }
        // A norm of 4 and a maximum of 1 clip by 1 / (4 + 1e-6).
        optimizer.step(&mut parameters, &gradients, rate, 1.0, &Tensor::scalar(4.0), &finite());
    }
    assert_eq!(optimizer.steps(), 5);
    for (which, id) in ids.into_iter().take(2).enumerate() {
        let weights: Vec<f64> = expected[which].iter().map(|(w, _)| *w).collect();
        close(&parameters.to_host(id), &weights, "weights");
        for (moment, (name, found)) in optimizer.moments_to_host().enumerate() {
            let expected: Vec<f64> = expected[which].iter().map(|(_, m)| m[moment]).collect();
            close(&found[parameters.entry(id).range.clone()], &expected, name);
        }
    }
    assert_eq!(*parameters.to_host(ids[2]), frozen, "the frozen parameter is unchanged");
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

#[test]
fn a_rate_factor_of_a_half_halves_the_update() {
    for rule in [Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 }, Rule::Sgd { momentum: 0.9 }] {
        let update = |factor: f32| {
            let mut parameters = Parameters::new();
            let id = parameters.add("matrix", &[3, 7]);
            parameters.entry_mut(id).rate = factor;
            let gradients = gradients(&parameters, &[id], 4);
            // From 0 the new value is the update, without rounding of a sum.
            Optimizer::new(rule, 0.1, &parameters).step(&mut parameters, &gradients, 0.01, 0.0, &gradients.norm(), &finite());
            parameters.to_host(id).into_owned()
        };
        let (whole, half) = (update(1.0), update(0.5));
        assert!(whole.iter().zip(&half).all(|(w, h)| *w != 0.0 && *h == 0.5 * w), "{rule:?}: {whole:?} {half:?}");
    }
}

/// A run that resumes from a checkpoint takes the same steps as one that was never stopped.
#[test]
fn moments_and_steps_carry_an_optimizer_over() {
    let rule = Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    let (mut through, ids) = parameters();
    let mut first = Optimizer::new(rule, 0.1, &through);
    let gradients = gradients(&through, &ids, 3);
    let norm = gradients.norm();
    first.step(&mut through, &gradients, 0.01, 0.0, &norm, &finite());
    let mut resumed = through.clone();
    let mut second = Optimizer::new(rule, 0.1, &resumed);
    for (name, from) in first.moments_to_host() {
        second.update_moment_on_host(name, |to| to.copy_from_slice(&from));
    }
    second.set_steps(first.steps());
    first.step(&mut through, &gradients, 0.01, 0.0, &norm, &finite());
    second.step(&mut resumed, &gradients, 0.01, 0.0, &norm, &finite());
    assert!(through.flat_to_host() == resumed.flat_to_host());
}

#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    let (mut parameters, ids) = parameters();
    let mut optimizer = Optimizer::new(Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 }, 0.1, &parameters);
    let mut gradients = gradients(&parameters, &ids, 3);
    gradients.update_on_host(ids[0], |g| g[17] = f32::NAN);
    let (norm, before) = (gradients.norm(), parameters.clone());
    let finite = finite_flag(&norm, &[&Tensor::scalar(1.0)]);
    optimizer.step(&mut parameters, &gradients, 0.01, 1.0, &norm, &finite);
    let mut target = before.clone();
    target.update_flat_on_host(|values| values.fill(2.0));
    momentum_update(&mut target, &before, 0.5, &finite);
    assert!(parameters.flat_to_host() == before.flat_to_host() && optimizer.steps() == 0);
    assert!(optimizer.moments_to_host().all(|(_, moment)| moment.iter().all(|m| *m == 0.0)));
    assert!(target.flat_to_host().iter().all(|v| *v == 2.0));
}

#[test]
fn the_flag_is_set_if_norm_and_losses_are_finite() {
    let scalar = Tensor::scalar;
    for (norm, losses, flag) in [
        (1.0, vec![], 1.0),
        (0.0, vec![-3.0, f32::MAX], 1.0),
        (f32::INFINITY, vec![1.0], 0.0),
        (f32::NAN, vec![], 0.0),
        (1.0, vec![1.0, f32::NAN], 0.0),
        (1.0, vec![f32::NEG_INFINITY, 1.0], 0.0),
    ] {
        let losses: Vec<Tensor> = losses.into_iter().map(scalar).collect();
        let losses: Vec<&Tensor> = losses.iter().collect();
        assert_eq!(finite_flag(&scalar(norm), &losses).item(), flag);
    }
}

/// Gradients of one vector.
fn vector(values: &[f32]) -> Gradients {
    let mut parameters = Parameters::new();
    let id = parameters.add("vector", &[values.len()]);
    let mut gradients = parameters.gradients();
    gradients.update_on_host(id, |to| to.copy_from_slice(values));
    gradients
}

#[test]
fn norm() {
    for len in [0, 1, 255, 257, LONG] {
        let values = numbers(1, len);
        let plain = values.iter().map(|&g| (g as f64).powi(2)).sum::<f64>().sqrt();
        let mut gradients = vector(&values);
        assert!((gradients.norm().item() as f64 - plain).abs() <= 1e-6 * plain, "{len}");
        gradients.clear();
        assert_eq!(gradients.norm().item(), 0.0);
    }
}

#[test]
fn a_norm_of_values_that_are_not_finite_is_not_finite() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 17, 16 * 1024, LONG - 1] {
            let mut values = numbers(1, LONG);
            values[place] = value;
            assert!(!vector(&values).norm().item().is_finite(), "{value} at {place}");
        }
    }
}

#[test]
fn momentum_update_is_a_weighted_mean() {
    let (mut target, mut source) = (Parameters::new(), Parameters::new());
    let [to, from] = [&mut target, &mut source].map(|p| p.add("shared", &[LONG]));
    source.add("predictor", &[40]);
    target.update_on_host(to, |v| v.copy_from_slice(&numbers(1, LONG)));
    source.update_on_host(from, |v| v.copy_from_slice(&numbers(2, LONG)));
    let pairs = numbers(1, LONG).into_iter().zip(numbers(2, LONG));
    let expected: Vec<f64> = pairs.map(|(t, s)| 0.75 * t as f64 + 0.25 * s as f64).collect();
    momentum_update(&mut target, &source, 0.75, &finite());
    close(&target.to_host(to), &expected, "target");
}

#[test]
fn parameters_keep_their_values_as_others_are_added() {
    let mut parameters = Parameters::new();
    for i in 0..20 {
        let id = parameters.add(format!("p{i}"), &[i, 3]);
        parameters.update_on_host(id, |to| to.fill(i as f32 + 1.0));
    }
    let flat = parameters.flat_to_host();
    for (i, entry) in parameters.entries().iter().enumerate() {
        assert_eq!((entry.range.start % 16, entry.range.len()), (0, 3 * i));
        assert!(flat[entry.range.clone()].iter().all(|v| *v == i as f32 + 1.0));
    }
    // The gaps between ranges stay 0, so that norms over the flat memory are those of the
    // parameters.
    assert_eq!(flat.iter().sum::<f32>(), (0..20).map(|i| (3 * i * (i + 1)) as f32).sum::<f32>());
    assert_eq!(flat.len(), parameters.flat_len());
}
