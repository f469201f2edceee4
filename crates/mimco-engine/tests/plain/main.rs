//! Every operator against a plain implementation of its formula in f64 (cases.rs): its forward pass directly, its backward pass
//! against central differences of the plain one, which in f64 are good to about ten digits. On the same cases: equal bits for any
//! number of threads, and no NaN that is lost on the way.

mod cases;

use cases::{Case, EPS, Random, cases, wide};
use mimco_engine::cpu::threads::set_threads;
use mimco_engine::ops::{Activation, DropPath, Layer, Norm, Residual, RunningStatistics, layer_norm_plain};
use mimco_engine::{Parameters, Precision, Tape, Tensor, Var};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The tests take turns, so that each has the workers and the recycled buffers to itself.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an operator yields.
struct Yield {
    output: Vec<f32>,
    /// Of the case's arrays, for the output's gradient `seed(output.len())`.
    gradients: Vec<Vec<f32>>,
}

impl Yield {
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

fn run(case: &Case, arrays: &[Tensor]) -> Yield {
    run_in(Precision::F32, case, arrays)
}

fn run_in(precision: Precision, case: &Case, arrays: &[Tensor]) -> Yield {
    let mut parameters = Parameters::new();
    parameters.set_precision(precision);
    let ids: Vec<_> = arrays[case.inputs..].iter().map(|array| parameters.add("parameter", array.dims())).collect();
    for (id, array) in ids.iter().zip(&arrays[case.inputs..]) {
        parameters.get_mut(*id).copy_from_slice(array.data());
    }
    let constants: Vec<Var> = arrays[..case.inputs].iter().map(|array| Var::constant(array.clone())).collect();
    let inference = (case.engine)(&mut Tape::inference(&parameters), &constants, &ids);

    let mut found = Yield { output: Vec::new(), gradients: vec![Vec::new(); arrays.len()] };
    // One leaf's gradient comes back a pass: each input takes its turn.
    for wanted in 0..case.inputs.max(1) {
        let mut tape = Tape::recording(&parameters);
        let leaves: Vec<Var> = arrays[..case.inputs].iter().map(|array| tape.leaf(array.clone())).collect();
        let output = (case.engine)(&mut tape, &leaves, &ids);
        let value = output.value.to_f32();
        let same = value.data().iter().zip(inference.value.to_f32().data()).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{}: inference and training differ", case.label);
        // Gradients are added to what is there.
        let mut gradients = parameters.zeros_like();
        gradients.fill(1.0);
        let dx = tape.backward(&output, seed(value.elements()), &mut gradients, leaves.get(wanted));
        if wanted < case.inputs {
            let nothing = || vec![0.0; arrays[wanted].data().len()];
            found.gradients[wanted] = dx.map_or_else(nothing, |dx| dx.data().to_vec());
        }
        for (i, id) in ids.iter().enumerate() {
            let gradient = &gradients[parameters.entry(*id).range.clone()];
            found.gradients[case.inputs + i] = gradient.iter().map(|g| g - 1.0).collect();
        }
        found.output = value.data().to_vec();
    }
    found
}

/// Before the run another on NaN alone: any stale element of a recycled buffer that is read would show.
fn run_in_dirty_buffers(precision: Precision, case: &Case) -> Yield {
    let dirty: Vec<Tensor> = case.arrays.iter().map(|a| Tensor::from_slice(a.dims(), &vec![f32::NAN; a.data().len()])).collect();
    run_in(precision, case, &dirty);
    run_in(precision, case, &case.arrays)
}

fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn check(label: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{label}: number of elements");
    let (difference, size) = (norm(found.iter().zip(expected).map(|(&a, b)| a as f64 - b)), norm(expected.iter().copied()));
    // Below 1e-12 lies what f64 leaves of a 0.
    assert!(difference <= tolerance * size + 1e-12, "{label}: {difference:e} off of {size:e}");
}

#[test]
fn forward_is_the_plain_formula() {
    let _turn = turn();
    for case in cases() {
        let arrays: Vec<Vec<f64>> = case.arrays.iter().map(|a| wide(a.data())).collect();
        check(&case.label, &run_in_dirty_buffers(Precision::F32, &case).output, &(case.plain)(&arrays), case.tolerance);
    }
}

#[test]
fn backward_is_the_difference_quotient() {
    const STEP: f64 = 1e-5;
    let _turn = turn();
    for case in cases() {
        let found = run_in_dirty_buffers(Precision::F32, &case);
        let arrays: Vec<Vec<f64>> = case.arrays.iter().map(|a| wide(a.data())).collect();
        let seed = wide(seed(found.output.len()).data());
        let mut random = Random(77);
        for (which, gradient) in found.gradients.iter().enumerate() {
            for _ in 0..3 {
                let direction = wide(random.tensor(&[gradient.len()], 1.0).data());
                let [above, below] = [STEP, -STEP].map(|step| {
                    let mut moved = arrays.clone();
                    moved[which].iter_mut().zip(&direction).for_each(|(a, d)| *a += step * d);
                    (case.plain)(&moved).iter().zip(&seed).map(|(y, s)| y * s).sum::<f64>()
                });
                let expected = (above - below) / (2.0 * STEP);
                let along: f64 = gradient.iter().zip(&direction).map(|(&g, d)| g as f64 * d).sum();
                // A random direction sees an error anywhere at about its own size; 1e-9 is the quotient's.
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

/// A training step is skipped where its loss or gradient is not finite, so neither may hide a value that is not.
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
                    arrays[which].data_mut()[place] = value;
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
        let width = case.arrays[1].data().len();
        let plain = (case.plain)(&[wide(case.arrays[0].data()), vec![1.0; width], vec![0.0; width]]);
        check(&case.label, layer_norm_plain(&case.arrays[0], EPS).data(), &plain, 2e-6);
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
            let column: Vec<f64> = (0..rows).map(|row| x.data()[row * width + i] as f64).collect();
            let m = column.iter().sum::<f64>() / rows as f64;
            mean[i] = 0.9 * mean[i] + 0.1 * m;
            variance[i] = 0.9 * variance[i] + 0.1 * column.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (rows - 1) as f64;
        }
    }
    check("mean", &running.mean, &mean, 2e-6);
    check("variance", &running.variance, &variance, 2e-6);
}

/// Two blocks of a transformer, their parts recomputed or kept: output, the input's gradient, the parameters'.
fn blocks(precision: Precision, recompute: bool) -> Yield {
    let (rows, width) = (55, 20);
    let mut random = Random(21);
    let mut parameters = Parameters::new();
    let [scale, shift, qkv, projection, first, second] =
        [vec![width], vec![width], vec![3 * width, width], vec![width, width], vec![32, width], vec![width, 32]]
            .map(|shape| parameters.add("parameter", &shape));
    parameters.flat_mut().iter_mut().for_each(|p| *p = random.number());
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
    let mut gradients = parameters.zeros_like();
    let dx = tape.backward(&output, seed(rows * width), &mut gradients, Some(&leaf)).unwrap();
    assert!(dx.data().iter().all(|d| *d != 0.0));
    Yield { output: output.value.data().to_vec(), gradients: vec![dx.data().to_vec(), gradients.to_vec()] }
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

/// bf16 keeps eight bits: each number is off by up to 1 in 512, a sum of many by as much of its size.
#[test]
fn bf16_is_near_single_precision() {
    let _turn = turn();
    let (single, half) = (blocks(Precision::F32, false), blocks(Precision::Bf16, false));
    check("output", &half.output, &wide(&single.output), 0.01);
    for (label, half, single) in
        [("input", &half.gradients[0], &single.gradients[0]), ("parameters", &half.gradients[1], &single.gradients[1])]
    {
        check(label, half, &wide(single), 0.02);
    }
    assert!(half.output != single.output);
}

/// Every operator with products in bf16 and its own tensors in f32: within what the rounding of the factors explains.
#[test]
fn operators_in_bf16_are_near_the_plain_formula() {
    let _turn = turn();
    for case in cases() {
        let found = run_in_dirty_buffers(Precision::Bf16, &case);
        let arrays: Vec<Vec<f64>> = case.arrays.iter().map(|a| wide(a.data())).collect();
        check(&case.label, &found.output, &(case.plain)(&arrays), 0.01);
        let single = run(&case, &case.arrays);
        for (which, (half, single)) in found.gradients.iter().zip(&single.gradients).enumerate() {
            check(&format!("{}, array {which}", case.label), half, &wide(single), 0.02);
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
        let mut gradients = parameters.zeros_like();
        tape.backward(&output, seed(output.value.data().len()), &mut gradients, None);
        assert!(gradients.iter().all(|g| *g == 0.0), "{}", case.label);
    }
}
