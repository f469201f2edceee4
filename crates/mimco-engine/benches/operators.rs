//! The operators at the sizes of ViT-S, eight images of 197 tokens, each forward and backward, and
//! the passes of optimizers: `cargo bench -p mimco-engine --bench operators [NAME]`. The throughput
//! is in rows of the input, or in elements.

use divan::Bencher;
use divan::counter::ItemsCount;
use mimco_engine::ops::{Activation, ContrastiveTargets, DropPath, Layer, Masked, Norm, Positive, Prefix, Residual, RunningStatistics};
use mimco_engine::optim::{Optimizer, Rule, momentum_update};
use mimco_engine::{ParameterId, Parameters, Precision, Tape, Tensor, Var};
use std::sync::Arc;

const BATCH: usize = 8;
const TOKENS: usize = 197;
const WIDTH: usize = 384;
const HEADS: usize = 6;
const BOTH: [Precision; 2] = [Precision::F32, Precision::Bf16];

fn main() {
    divan::main();
}

fn numbers(n: usize) -> impl Iterator<Item = f32> {
    (0..n).map(|i| (i * 37 % 1009) as f32 / 504.5 - 1.0)
}

fn tensor(shape: &[usize]) -> Tensor {
    let values: Vec<f32> = numbers(shape.iter().product()).collect();
    Tensor::from_slice(shape, &values)
}

/// Times an operator on x [rows, width] and parameters of these shapes, forward and backward.
fn both_ways(
    bencher: Bencher<'_, '_>,
    precision: Precision,
    x: Tensor,
    shapes: &[&[usize]],
    operator: impl for<'a> Fn(&mut Tape<'a>, &Var, &[ParameterId]) -> Var + Sync,
) {
    let mut parameters = Parameters::new();
    let ids: Vec<_> = shapes.iter().map(|shape| parameters.add("parameter", shape)).collect();
    parameters.update_flat_on_host(|flat| flat.iter_mut().zip(numbers(usize::MAX)).for_each(|(p, v)| *p = 0.02 * v));
    parameters.set_precision(precision);
    let mut gradients = parameters.gradients();
    let rows = ItemsCount::new(x.rows());
    bencher.counter(rows).bench_local(|| {
        let mut tape = Tape::recording(&parameters);
        let leaf = tape.leaf(x.clone());
        let y = operator(&mut tape, &leaf, &ids);
        tape.backward(&y, y.value.clone(), &mut gradients, Some(&leaf))
    });
}

fn offsets() -> Arc<[usize]> {
    (0..=BATCH).map(|image| image * TOKENS).collect()
}

fn rows() -> Tensor {
    tensor(&[BATCH * TOKENS, WIDTH])
}

fn norm(ids: &[ParameterId]) -> Norm {
    Norm { weight: ids[0], bias: ids[1], eps: 1e-6 }
}

fn layer(ids: &[ParameterId]) -> Layer {
    Layer { weight: ids[0], bias: Some(ids[1]) }
}

#[divan::bench(args = BOTH)]
fn patch_embed(bencher: Bencher<'_, '_>, precision: Precision) {
    let images = tensor(&[BATCH, 3, 224, 224]);
    both_ways(bencher, precision, rows(), &[&[WIDTH, 3, 16, 16], &[WIDTH]], |tape, _, ids| {
        tape.patch_embed(&images, &[0.5; 3], &[0.25; 3], layer(ids), None)
    });
}

#[divan::bench]
fn tokens(bencher: Bencher<'_, '_>) {
    let masked: Arc<[bool]> = (0..BATCH * (TOKENS - 1)).map(|i| i % 2 == 0).collect();
    let visible = tensor(&[BATCH * (TOKENS - 1) / 2, WIDTH]);
    both_ways(bencher, Precision::F32, visible, &[&[1, 1, WIDTH], &[1, TOKENS, WIDTH], &[1, 1, WIDTH]], |tape, x, ids| {
        tape.tokens(x, BATCH, Prefix { class: ids[0], registers: None }, ids[1], Some(Masked { token: ids[2], masked: masked.clone() }))
    });
}

#[divan::bench]
fn layer_norm(bencher: Bencher<'_, '_>) {
    both_ways(bencher, Precision::F32, rows(), &[&[WIDTH], &[WIDTH]], |tape, x, ids| tape.layer_norm(x, norm(ids)));
}

#[divan::bench(args = BOTH)]
fn norm_linear(bencher: Bencher<'_, '_>, precision: Precision) {
    both_ways(bencher, precision, rows(), &[&[WIDTH], &[WIDTH], &[3 * WIDTH, WIDTH], &[3 * WIDTH]], |tape, x, ids| {
        tape.norm_linear(x, norm(ids), layer(&ids[2..]), None)
    });
}

/// Attention on the result of `norm_linear`, which is timed with it.
#[divan::bench(args = BOTH)]
fn norm_linear_and_attention(bencher: Bencher<'_, '_>, precision: Precision) {
    both_ways(bencher, precision, rows(), &[&[WIDTH], &[WIDTH], &[3 * WIDTH, WIDTH], &[3 * WIDTH]], |tape, x, ids| {
        let qkv = tape.norm_linear(x, norm(ids), layer(&ids[2..]), None);
        tape.attention(&qkv, &offsets(), HEADS)
    });
}

#[divan::bench(args = BOTH)]
fn linear_residual(bencher: Bencher<'_, '_>, precision: Precision) {
    both_ways(bencher, precision, rows(), &[&[WIDTH, WIDTH], &[WIDTH]], |tape, x, ids| {
        tape.linear_residual(x, x, layer(ids), Residual::default())
    });
}

#[divan::bench(args = BOTH)]
fn mlp(bencher: Bencher<'_, '_>, precision: Precision) {
    let shapes: [&[usize]; 6] = [&[WIDTH], &[WIDTH], &[4 * WIDTH, WIDTH], &[4 * WIDTH], &[WIDTH, 4 * WIDTH], &[WIDTH]];
    both_ways(bencher, precision, rows(), &shapes, |tape, x, ids| {
        tape.mlp(x, norm(ids), [layer(&ids[2..]), layer(&ids[4..])], Residual::default())
    });
}

/// Half of the images skip the branch: half of the time, except for the packing of the weights and
/// the rows that are copied.
#[divan::bench(args = BOTH)]
fn mlp_of_half_the_images(bencher: Bencher<'_, '_>, precision: Precision) {
    let shapes: [&[usize]; 6] = [&[WIDTH], &[WIDTH], &[4 * WIDTH, WIDTH], &[4 * WIDTH], &[WIDTH, 4 * WIDTH], &[WIDTH]];
    let drop_path = DropPath::new(2.0, &offsets(), |image| image % 2 == 0);
    both_ways(bencher, precision, rows(), &shapes, |tape, x, ids| {
        let how = Residual { gamma: None, drop_path: Some(&drop_path) };
        tape.mlp(x, norm(ids), [layer(&ids[2..]), layer(&ids[4..])], how)
    });
}

/// A layer of MoCo v3's heads, which has few rows and many columns.
#[divan::bench(args = BOTH)]
fn linear_of_a_head(bencher: Bencher<'_, '_>, precision: Precision) {
    both_ways(bencher, precision, tensor(&[BATCH, 4096]), &[&[4096, 4096], &[4096]], |tape, x, ids| {
        tape.linear(x, layer(ids), Activation::None)
    });
}

#[divan::bench(args = BOTH)]
fn linear_with_gelu(bencher: Bencher<'_, '_>, precision: Precision) {
    both_ways(bencher, precision, rows(), &[&[WIDTH, WIDTH], &[WIDTH]], |tape, x, ids| tape.linear(x, layer(ids), Activation::Gelu));
}

#[divan::bench]
fn batch_norm(bencher: Bencher<'_, '_>) {
    both_ways(bencher, Precision::F32, tensor(&[32, 4096]), &[&[4096], &[4096]], |tape, x, ids| {
        tape.batch_norm(x, Some((ids[0], ids[1])), true, &mut RunningStatistics::new(4096))
    });
}

#[divan::bench]
fn select_rows(bencher: Bencher<'_, '_>) {
    let indices: Arc<[usize]> = (0..BATCH * TOKENS).step_by(2).collect();
    both_ways(bencher, Precision::F32, rows(), &[], |tape, x, _| tape.select_rows(x, &indices));
}

#[divan::bench]
fn mean_tokens(bencher: Bencher<'_, '_>) {
    both_ways(bencher, Precision::F32, rows(), &[], |tape, x, _| tape.mean_tokens(x, &offsets(), 1));
}

/// MimCo's patch loss: each masked patch among those of its image.
#[divan::bench]
fn info_nce(bencher: Bencher<'_, '_>) {
    let keys = tensor(&[BATCH, 120, WIDTH]);
    let targets: Vec<u32> = (0..BATCH as u32 * 120).map(|row| row % 120).collect();
    both_ways(bencher, Precision::F32, tensor(&[BATCH * 120, WIDTH]), &[], |tape, x, _| {
        tape.info_nce(x, &ContrastiveTargets { keys: &keys, positive: Positive::InKeys(&targets), sample_ids: None, temperature: 0.2 }).0
    });
}

#[divan::bench]
fn l1(bencher: Bencher<'_, '_>) {
    let target = Tensor::zeros([BATCH * TOKENS, WIDTH]);
    both_ways(bencher, Precision::F32, rows(), &[], |tape, x, _| tape.l1(x, &target));
}

/// Returns as many parameters as ViT-S has.
fn flat() -> Parameters {
    let mut parameters = Parameters::new();
    parameters.add("parameter", &[21_600, 1_000]);
    parameters
}

#[divan::bench]
fn adamw(bencher: Bencher<'_, '_>) {
    let mut parameters = flat();
    let gradients = parameters.gradients();
    let (norm, finite) = (Tensor::scalar(1.0), Tensor::scalar(1.0));
    let mut optimizer = Optimizer::new(Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 }, 0.05, &parameters);
    bencher
        .counter(ItemsCount::new(parameters.flat_len()))
        .bench_local(|| optimizer.step(&mut parameters, &gradients, 1e-4, 0.0, &norm, &finite));
}

#[divan::bench]
fn momentum(bencher: Bencher<'_, '_>) {
    let (mut target, source) = (flat(), flat());
    bencher.counter(ItemsCount::new(source.flat_len())).bench_local(|| momentum_update(&mut target, &source, 0.99, &Tensor::scalar(1.0)));
}

#[divan::bench]
fn norm_of_gradients(bencher: Bencher<'_, '_>) {
    let parameters = flat();
    let gradients = parameters.gradients();
    bencher.counter(ItemsCount::new(parameters.flat_len())).bench_local(|| gradients.norm());
}
