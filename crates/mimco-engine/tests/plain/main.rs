//! Every operator against a plain implementation of its formula in f64 (cases.rs).
//!
//! The forward pass is compared directly, the backward pass with central differences of the plain
//! formula, which in f64 are accurate to about ten digits. The same cases test that the bits are
//! equal for any number of threads and that NaN is never lost.

mod cases;

use cases::{Case, EPS, Random, cases, to_f64};
use mimco_engine::cpu::threads::set_threads;
use mimco_engine::ops::{Activation, DropPath, Layer, Norm, Residual, RunningStatistics, layer_norm_plain};
use mimco_engine::{Parameters, Precision, Tape, Tensor, Var};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lets one test run at a time, so that each has the workers and the recycled buffers to itself.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Results of an operator.
struct Outcome {
    output: Vec<f32>,
    /// Gradients of the case's arrays, for the output's gradient `seed(output.len())`.
    gradients: Vec<Vec<f32>>,
}

impl Outcome {
    fn all(&self) -> impl Iterator<Item = f32> {
        self.gradients.iter().flatten().chain(&self.output).copied()
    }

    fn bits(&self) -> Vec<u32> {
        self.all().map(f32::to_bits).collect()
    }
}

fn seed(len: usize) -> Tensor {
    Random(99).tensor(&[len], 1.0)
}

fn run(case: &Case, arrays: &[Tensor]) -> Outcome {
    run_in(Precision::F32, case, arrays)
}

fn run_in(precision: Precision, case: &Case, arrays: &[Tensor]) -> Outcome {
    let mut parameters = Parameters::new();
    parameters.set_precision(precision);
    let ids: Vec<_> = arrays[case.inputs..].iter().map(|array| parameters.add("parameter", array.dims())).collect();
    for (id, array) in ids.iter().zip(&arrays[case.inputs..]) {
        parameters.update_on_host(*id, |to| to.copy_from_slice(&array.to_host()));
    }
    let constants: Vec<Var> = arrays[..case.inputs].iter().map(|array| Var::constant(array.clone())).collect();
    let inference = (case.engine)(&mut Tape::inference(&parameters), &constants, &ids);

    let mut found = Outcome { output: Vec::new(), gradients: vec![Vec::new(); arrays.len()] };
    // A backward pass returns one leaf's gradient, so each input is the leaf of one pass.
    for wanted in 0..case.inputs.max(1) {
        let mut tape = Tape::recording(&parameters);
        let leaves: Vec<Var> = arrays[..case.inputs].iter().map(|array| tape.leaf(array.clone())).collect();
        let output = (case.engine)(&mut tape, &leaves, &ids);
        let value = output.value.to_host();
        let same = value.iter().zip(&inference.value.to_host()[..]).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{}: inference and training differ", case.label);
        // Backward passes add to the gradients.
        let mut gradients = parameters.gradients();
        ids.iter().for_each(|id| gradients.update_on_host(*id, |g| g.fill(1.0)));
        let dx = tape.backward(&output, seed(value.len()), &mut gradients, leaves.get(wanted));
        if wanted < case.inputs {
            let nothing = || vec![0.0; arrays[wanted].elements()];
            found.gradients[wanted] = dx.map_or_else(nothing, |dx| dx.to_host().to_vec());
        }
        for (i, id) in ids.iter().enumerate() {
            found.gradients[case.inputs + i] = gradients.to_host(*id).iter().map(|g| g - 1.0).collect();
        }
        found.output = value.to_vec();
    }
    found
}

/// Runs the case on NaN first, so that an element of a recycled buffer that is read but never
/// written makes the result NaN.
fn run_in_dirty_buffers(precision: Precision, case: &Case) -> Outcome {
    let dirty: Vec<Tensor> = case.arrays.iter().map(|a| Tensor::from_slice(a.dims(), &vec![f32::NAN; a.elements()])).collect();
    run_in(precision, case, &dirty);
    run_in(precision, case, &case.arrays)
}

fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn check(label: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{label}: number of elements");
    let (difference, size) = (norm(found.iter().zip(expected).map(|(&a, b)| a as f64 - b)), norm(expected.iter().copied()));
    // The error of an f64 sum that is 0 is below 1e-12.
    assert!(difference <= tolerance * size + 1e-12, "{label}: {difference:e} off of {size:e}");
}

#[test]
fn forward_is_the_plain_formula() {
    let _turn = turn();
    for case in cases() {
        let arrays: Vec<Vec<f64>> = case.arrays.iter().map(|a| to_f64(&a.to_host())).collect();
        check(&case.label, &run_in_dirty_buffers(Precision::F32, &case).output, &(case.plain)(&arrays), case.tolerance);
    }
}

#[test]
fn backward_is_the_difference_quotient() {
    const STEP: f64 = 1e-5;
    let _turn = turn();
    for case in cases() {
        let found = run_in_dirty_buffers(Precision::F32, &case);
        let arrays: Vec<Vec<f64>> = case.arrays.iter().map(|a| to_f64(&a.to_host())).collect();
        let seed = to_f64(&seed(found.output.len()).to_host());
        let mut random = Random(77);
        for (which, gradient) in found.gradients.iter().enumerate() {
            for _ in 0..3 {
                let direction = to_f64(&random.tensor(&[gradient.len()], 1.0).to_host());
                let [above, below] = [STEP, -STEP].map(|step| {
                    let mut moved = arrays.clone();
                    moved[which].iter_mut().zip(&direction).for_each(|(a, d)| *a += step * d);
                    (case.plain)(&moved).iter().zip(&seed).map(|(y, s)| y * s).sum::<f64>()
                });
                let expected = (above - below) / (2.0 * STEP);
                let along: f64 = gradient.iter().zip(&direction).map(|(&g, d)| g as f64 * d).sum();
                // An error anywhere changes the derivative along a random direction by about its
                // own size; 1e-9 is the error of the quotient.
                let bound = case.tolerance * norm(gradient.iter().map(|&g| g as f64)) + 1e-9;
                assert!((along - expected).abs() <= bound, "{}, array {which}: {along} for {expected}, bound {bound:e}", case.label);
            }
        }
    }
}

#[test]
fn any_number_of_threads_yields_the_same_bits() {
    let _turn = turn();
    for case in cases() {
        let bits = [1, 2, 3].map(|threads| {
            set_threads(threads);
            run(&case, &case.arrays).bits()
        });
        assert!(bits.iter().all(|b| *b == bits[0]), "{}", case.label);
    }
}

/// A training step is skipped if its loss or gradient is not finite, so neither may hide such a
/// value.
#[test]
fn values_that_are_not_finite_show_in_output_or_gradients() {
    let _turn = turn();
    for (case, precision) in cases().iter().flat_map(|case| [(case, Precision::F32), (case, Precision::Bf16)]) {
        let found = run_in(precision, case, &case.arrays);
        for (which, gradient) in found.gradients.iter().enumerate() {
            let used: Vec<usize> = (0..gradient.len()).filter(|&i| gradient[i] != 0.0).collect();
            let Some(last) = used.len().checked_sub(1) else { continue };
            for place in [used[0], used[last / 2], used[last]] {
                let infinities = if which < case.inputs { &[f32::INFINITY, f32::NEG_INFINITY][..] } else { &[] };
                for &value in infinities.iter().chain(&[f32::NAN]) {
                    let mut arrays = case.arrays.clone();
                    let mut elements = arrays[which].to_host().into_owned();
                    elements[place] = value;
                    arrays[which] = Tensor::from_slice(arrays[which].dims(), &elements);
                    let shows = run_in(precision, case, &arrays).all().any(|v| !v.is_finite());
                    assert!(shows, "{}, {precision:?}: {value} at {place} of array {which}", case.label);
                }
            }
        }
    }
}

#[test]
fn layer_norm_plain_is_the_one_without_weight_and_bias() {
    let _turn = turn();
    for case in cases().iter().filter(|case| case.label.starts_with("layer_norm")) {
        let width = case.arrays[1].elements();
        let plain = (case.plain)(&[to_f64(&case.arrays[0].to_host()), vec![1.0; width], vec![0.0; width]]);
        check(&case.label, &layer_norm_plain(&case.arrays[0], EPS).to_host(), &plain, 2e-6);
    }
}

#[test]
fn running_statistics_follow_the_unbiased_variance() {
    let _turn = turn();
    let (rows, width) = (45, 70);
    let mut running = RunningStatistics::new(width);
    let (mut mean, mut variance) = (vec![0.0f64; width], vec![1.0f64; width]);
    let parameters = Parameters::new();
    for step in 0..2 {
        let x = Random(step).tensor(&[rows, width], 2.0);
        Tape::inference(&parameters).batch_norm(&Var::constant(x.clone()), None, false, &mut running);
        for i in 0..width {
            let column: Vec<f64> = (0..rows).map(|row| x.to_host()[row * width + i] as f64).collect();
            let m = column.iter().sum::<f64>() / rows as f64;
            mean[i] = 0.9 * mean[i] + 0.1 * m;
            variance[i] = 0.9 * variance[i] + 0.1 * column.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (rows - 1) as f64;
        }
    }
    check("mean", &running.mean_to_host(), &mean, 2e-6);
    check("variance", &running.variance_to_host(), &variance, 2e-6);
}

/// Runs two blocks of a transformer, recomputed or kept. Returns the output and the gradients of
/// input and parameters.
fn blocks(precision: Precision, recompute: bool) -> Outcome {
    let (rows, width) = (55, 20);
    let mut random = Random(21);
    let mut parameters = Parameters::new();
    let [scale, shift, qkv, projection, first, second] =
        [vec![width], vec![width], vec![3 * width, width], vec![width, width], vec![32, width], vec![width, 32]]
            .map(|shape| parameters.add("parameter", &shape));
    parameters.update_flat_on_host(|flat| flat.iter_mut().for_each(|p| *p = random.number()));
    parameters.set_precision(precision);
    let x = random.tensor(&[rows, width], 1.0);
    let offsets: Arc<[usize]> = [0, 30, 31, rows].into();
    let drop_path = DropPath::new(1.5, &offsets, |image| image != 1);
    let mut tape = Tape::recording(&parameters);
    let leaf = tape.leaf(x.clone());
    let mut output = leaf.clone();
    for _ in 0..2 {
        let drop_path = drop_path.clone();
        let block = move |tape: &mut Tape<'_>, x: &Var| {
            let layer = |weight, bias| Layer { weight, bias };
            let norm = Norm { weight: scale, bias: shift, eps: EPS };
            let y = tape.norm_linear(x, norm, layer(qkv, None), Some(&drop_path));
            let y = tape.attention(&y, &drop_path.offsets, 4);
            let y = tape.linear(&y, layer(projection, Some(shift)), Activation::Gelu);
            let how = Residual { gamma: Some(scale), drop_path: Some(&drop_path) };
            let x = tape.linear_residual(x, &y, layer(projection, None), how);
            tape.mlp(&x, norm, [layer(first, None), layer(second, Some(shift))], how)
        };
        output = if recompute { tape.recompute(&output, block) } else { block(&mut tape, &output) };
    }
    let mut gradients = parameters.gradients();
    let dx = tape.backward(&output, seed(rows * width), &mut gradients, Some(&leaf)).unwrap();
    assert!(dx.to_host().iter().all(|d| *d != 0.0));
    Outcome { output: output.value.to_host().to_vec(), gradients: vec![dx.to_host().to_vec(), gradients.flat_to_host().to_vec()] }
}

#[test]
fn recomputation_and_threads_yield_the_same_bits() {
    let _turn = turn();
    for precision in [Precision::F32, Precision::Bf16] {
        set_threads(1);
        let kept = blocks(precision, false).bits();
        for threads in [1, 2, 3] {
            set_threads(threads);
            assert!(kept == blocks(precision, false).bits() && kept == blocks(precision, true).bits(), "{precision:?}, {threads} threads");
        }
    }
}

/// bf16 has eight bits: each number is off by up to 1 in 512, a sum of many by as much of its size.
#[test]
fn bf16_is_near_single_precision() {
    let _turn = turn();
    let (single, bf16) = (blocks(Precision::F32, false), blocks(Precision::Bf16, false));
    check("output", &bf16.output, &to_f64(&single.output), 0.01);
    for (label, bf16, single) in
        [("input", &bf16.gradients[0], &single.gradients[0]), ("parameters", &bf16.gradients[1], &single.gradients[1])]
    {
        check(label, bf16, &to_f64(single), 0.02);
    }
    assert!(bf16.output != single.output);
}

/// Runs every operator with products in bf16 and tensors in f32; the error is bounded by the
/// rounding of the factors.
#[test]
fn operators_in_bf16_are_near_the_plain_formula() {
    let _turn = turn();
    for case in cases() {
        let found = run_in_dirty_buffers(Precision::Bf16, &case);
        let arrays: Vec<Vec<f64>> = case.arrays.iter().map(|a| to_f64(&a.to_host())).collect();
        check(&case.label, &found.output, &(case.plain)(&arrays), 0.01);
        let single = run(&case, &case.arrays);
        for (which, (bf16, single)) in found.gradients.iter().zip(&single.gradients).enumerate() {
            check(&format!("{}, array {which}", case.label), bf16, &to_f64(single), 0.02);
        }
    }
}

#[test]
fn frozen_parameters_get_no_gradient() {
    let _turn = turn();
    for case in cases().iter().filter(|case| case.arrays.len() > case.inputs) {
        let mut parameters = Parameters::new();
        let ids: Vec<_> = case.arrays[case.inputs..].iter().map(|array| parameters.add("parameter", array.dims())).collect();
        parameters.entries_mut().iter_mut().for_each(|entry| entry.trainable = false);
        let mut tape = Tape::recording(&parameters);
        let leaves: Vec<Var> = case.arrays[..case.inputs].iter().map(|array| tape.leaf(array.clone())).collect();
        let output = (case.engine)(&mut tape, &leaves, &ids);
        assert_eq!(output.node().is_some(), case.inputs > 0, "{}: recorded only where something wants a gradient", case.label);
        let mut gradients = parameters.gradients();
        tape.backward(&output, seed(output.value.elements()), &mut gradients, None);
        assert!(gradients.flat_to_host().iter().all(|g| *g == 0.0), "{}", case.label);
    }
}
