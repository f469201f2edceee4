//! Table of cases: the operators' formulas in plain f64, each with the call of the operator. Shapes
//! are odd and end within a block.

use mimco_engine::ops::{Activation, ContrastiveTargets, DropPath, Layer, Masked, Norm, Positive, Prefix, Residual, RunningStatistics};
use mimco_engine::{ParameterId, Tape, Tensor, Var};
use std::sync::Arc;

type Plain = Box<dyn Fn(&[Vec<f64>]) -> Vec<f64>>;
type Engine = Box<dyn Fn(&mut Tape<'_>, &[Var], &[ParameterId]) -> Var>;

/// One operator on one set of shapes.
pub struct Case {
    pub label: String,
    /// Values that get gradients: first `inputs` values on the tape, then the parameters.
    pub arrays: Vec<Tensor>,
    pub inputs: usize,
    /// Maximum relative error of output and gradients.
    pub tolerance: f64,
    /// The formula, from the arrays to the output.
    pub plain: Plain,
    pub engine: Engine,
}

impl Case {
    fn new(
        label: impl Into<String>,
        inputs: Vec<Tensor>,
        parameters: Vec<Tensor>,
        plain: impl Fn(&[Vec<f64>]) -> Vec<f64> + 'static,
        engine: impl Fn(&mut Tape<'_>, &[Var], &[ParameterId]) -> Var + 'static,
    ) -> Case {
        let count = inputs.len();
        let arrays = inputs.into_iter().chain(parameters).collect();
        Case { label: label.into(), arrays, inputs: count, tolerance: 2e-6, plain: Box::new(plain), engine: Box::new(engine) }
    }
}

/// Numbers that depend only on the seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Draws from -1..1, exact in f32.
    pub fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Draws each element from `scale` times -1..1.
    pub fn tensor(&mut self, shape: &[usize], scale: f32) -> Tensor {
        let elements = shape.iter().product();
        let values: Vec<f32> = (0..elements).map(|_| scale * self.number()).collect();
        Tensor::from_slice(shape, &values)
    }
}

pub fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v as f64).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Φ(x) = 1/2 + φ(x) (x + x³/3 + x⁵/(3·5) + x⁷/(3·5·7) + ...)
fn normal_cdf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for k in 1..200 {
        term *= x * x / (2 * k + 1) as f64;
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

/// Returns every operator in several shapes.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, inputs, outputs) in [(530, 33, 67), (1, 1, 1), (3, 17, 129), (0, 5, 67)] {
        for activation in [Activation::None, Activation::Gelu] {
            cases.push(linear(rows, inputs, outputs, true, activation));
        }
        cases.push(linear(rows, inputs, outputs, false, Activation::None));
    }
    cases.extend([(131, 37), (64, 16), (3, 1), (0, 9)].map(|(rows, width)| layer_norm(rows, width)));
    cases.extend([(1, 5), (3, 7), (2, 16)].map(|(heads, size)| attention(heads, size, &[0, 37, 38, 38, 55])));
    cases.push(attention(1, 3, &[0, 0]));
    cases.extend([(12, 20, false), (13, 22, true)].map(|(height, width, masked)| patch_embed(3, height, width, masked)));
    cases.extend([(false, 0), (true, 0), (true, 2), (false, 3)].map(|(masked, registers)| tokens(masked, registers)));
    cases.extend(
        [(Kept::All, 33, false), (Kept::ButTheThird, 5, false), (Kept::None, 4, true), (Kept::All, 5, true), (Kept::ButTheThird, 71, true)]
            .map(|(kept, inputs, scaled)| linear_residual(kept, inputs, scaled)),
    );
    cases.extend([(35, 13, 37), (3, 70, 5), (0, 5, 6)].map(|(rows, inputs, outputs)| norm_linear(rows, inputs, outputs)));
    cases.extend([Kept::ButTheThird, Kept::None].map(branch));
    cases.extend(
        [
            (35, 67, Kept::ButTheThird, false),
            (5, 3, Kept::All, false),
            (4, 6, Kept::None, false),
            (35, 67, Kept::ButTheThird, true),
            (5, 3, Kept::All, true),
        ]
        .map(|(width, inner, kept, scaled)| mlp(width, inner, kept, scaled)),
    );
    cases.extend([(45, 70, true), (45, 35, false), (1, 3, true)].map(|(rows, width, affine)| batch_norm(rows, width, affine)));
    let shape = NceShape { groups: 3, rows: 41, candidates: 23, separate: false, sample_ids: false, temperature: 0.2 };
    cases.push(info_nce(shape));
    cases.push(info_nce(NceShape { sample_ids: true, ..shape }));
    cases.push(info_nce(NceShape { separate: true, ..shape }));
    cases.push(info_nce(NceShape { separate: true, sample_ids: true, groups: 1, ..shape }));
    cases.push(info_nce(NceShape { separate: true, sample_ids: true, groups: 1, candidates: 0, ..shape }));
    cases.push(info_nce(NceShape { candidates: 1, ..shape }));
    cases.push(info_nce(NceShape { rows: 0, ..shape }));
    // Similarities are accurate to about 1e-7, logits to a hundred times that.
    cases.push(Case { tolerance: 3e-5, ..info_nce(NceShape { sample_ids: true, temperature: 0.01, ..shape }) });
    cases.push(Case { tolerance: 3e-5, ..info_nce(NceShape { separate: true, temperature: 0.01, ..shape }) });
    cases.extend([13, 0].map(l1));
    cases.push(select_rows());
    cases.extend([1, 3].map(mean_tokens));
    cases.push(weighted_sum());
    cases.extend([13, 0].map(mean_square));
    cases
}

fn linear(rows: usize, inputs: usize, outputs: usize, bias: bool, activation: Activation) -> Case {
    let mut random = Random(1);
    let mut parameters = vec![random.tensor(&[outputs, inputs], 0.8)];
    if bias {
        parameters.push(random.tensor(&[outputs], 1.0));
    }
    Case::new(
        format!("linear {rows}x{inputs}x{outputs} {activation:?}, bias {bias}"),
        vec![random.tensor(&[rows, inputs], 1.5)],
        parameters,
        move |a| {
            let y = |row: usize, output: usize| {
                let y = dot(&a[0][row * inputs..][..inputs], &a[1][output * inputs..][..inputs]) + a.get(2).map_or(0.0, |b| b[output]);
                if activation == Activation::Gelu { y * normal_cdf(y) } else { y }
            };
            (0..rows * outputs).map(|i| y(i / outputs, i % outputs)).collect()
        },
        move |tape, x, p| tape.linear(&x[0], Layer { weight: p[0], bias: p.get(1).copied() }, activation),
    )
}

fn layer_norm(rows: usize, width: usize) -> Case {
    let mut random = Random(2);
    Case::new(
        format!("layer_norm {rows}x{width}"),
        vec![random.tensor(&[rows, width], 2.0)],
        vec![random.tensor(&[width], 1.0), random.tensor(&[width], 1.0)],
        move |a| {
            let row = |x: &[f64]| -> Vec<f64> {
                let mean = x.iter().sum::<f64>() / width as f64;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                (0..width).map(|i| (x[i] - mean) / (variance + EPS as f64).sqrt() * a[1][i] + a[2][i]).collect()
            };
            a[0].chunks_exact(width).flat_map(row).collect()
        },
        |tape, x, p| tape.layer_norm(&x[0], norm(p)),
    )
}

/// The layer norms' epsilon.
pub const EPS: f32 = 1e-6;

fn attention(heads: usize, size: usize, offsets: &[usize]) -> Case {
    let mut random = Random(3);
    let (width, rows) = (heads * size, *offsets.last().unwrap());
    let offsets: Arc<[usize]> = offsets.into();
    let images = offsets.clone();
    Case::new(
        format!("attention of {heads} heads, {rows} rows"),
        vec![random.tensor(&[rows, 3 * width], 3.0)],
        vec![],
        move |a| {
            let mut y = vec![0.0; rows * width];
            for (image, head) in images.windows(2).flat_map(|image| (0..heads).map(move |head| (image[0]..image[1], head))) {
                let part = |row: usize, which: usize| &a[0][row * 3 * width + which * width + head * size..][..size];
                for i in image.clone() {
                    let weights = image.clone().map(|j| (dot(part(i, 0), part(j, 1)) / (size as f64).sqrt()).exp());
                    let weights: Vec<f64> = weights.collect();
                    let total: f64 = weights.iter().sum();
                    for (j, weight) in image.clone().zip(weights) {
                        for (y, v) in y[i * width + head * size..][..size].iter_mut().zip(part(j, 2)) {
                            *y += weight / total * v;
                        }
                    }
                }
            }
            y
        },
        move |tape, x, _| tape.attention(&x[0], &offsets, heads),
    )
}

/// Pixels after the last whole patch are ignored, as in a convolution.
fn patch_embed(batch: usize, height: usize, width: usize, masked: bool) -> Case {
    const PATCH: usize = 4;
    const OUTPUTS: usize = 70;
    let (mean, std) = ([0.5f32, 0.4, 0.3], [0.2f32, 0.25, 0.3]);
    let mut random = Random(4);
    let images = random.tensor(&[batch, 3, height, width], 1.0);
    let pixels = to_f64(&images.to_host());
    let mask: Vec<bool> = (0..batch * (height / PATCH) * (width / PATCH)).map(|position| masked && position % 5 < 3).collect();
    let left_out = mask.clone();
    Case::new(
        format!("patch_embed {height}x{width}, masked {masked}"),
        vec![],
        vec![random.tensor(&[OUTPUTS, 3, PATCH, PATCH], 0.3), random.tensor(&[OUTPUTS], 1.0)],
        move |a| {
            let (down, across) = (height / PATCH, width / PATCH);
            let mut y = Vec::new();
            for (image, token, output) in
                (0..batch).flat_map(|b| (0..down * across).flat_map(move |t| (0..OUTPUTS).map(move |o| (b, t, o))))
            {
                if left_out[image * down * across + token] {
                    continue;
                }
                let mut sum = a[1][output];
                for (channel, i, j) in (0..3).flat_map(|c| (0..PATCH).flat_map(move |i| (0..PATCH).map(move |j| (c, i, j)))) {
                    let (row, column) = (token / across * PATCH + i, token % across * PATCH + j);
                    let pixel = pixels[((image * 3 + channel) * height + row) * width + column];
                    let weight = a[0][((output * 3 + channel) * PATCH + i) * PATCH + j];
                    sum += weight * (pixel - mean[channel] as f64) / std[channel] as f64;
                }
                y.push(sum);
            }
            y
        },
        move |tape, _, p| {
            let layer = Layer { weight: p[0], bias: Some(p[1]) };
            tape.patch_embed(&images, &mean, &std, layer, masked.then_some(&mask))
        },
    )
}

fn tokens(masked: bool, registers: usize) -> Case {
    let (batch, count, width) = (3, 5, 19);
    let mut random = Random(5);
    let mask: Arc<[bool]> = (0..batch * count).map(|i| masked && i % 3 != 1).collect();
    let is_masked = mask.clone();
    // Class token and positions, then registers and mask token if the case has them.
    let mut parameters = vec![random.tensor(&[1, 1, width], 1.0), random.tensor(&[1, count + 1, width], 1.0)];
    parameters.extend((registers > 0).then(|| random.tensor(&[1, registers, width], 1.0)));
    parameters.extend(masked.then(|| random.tensor(&[1, 1, width], 1.0)));
    let mask_token = parameters.len();
    Case::new(
        format!("tokens, masked {masked}, {registers} registers"),
        vec![random.tensor(&[batch * count, width], 1.0)],
        parameters,
        move |a| {
            let patch = |position: usize, i: usize| if is_masked[position] { a[mask_token][i] } else { a[0][position * width + i] };
            let element = |image: usize, token: usize, i: usize| match token {
                0 => a[1][i] + a[2][i],
                _ if token <= registers => a[3][(token - 1) * width + i],
                _ => patch(image * count + token - registers - 1, i) + a[2][(token - registers) * width + i],
            };
            let row = (1 + registers + count) * width;
            (0..batch * row).map(|i| element(i / row, i % row / width, i % width)).collect()
        },
        move |tape, x, p| {
            let prefix = Prefix { class: p[0], registers: (registers > 0).then(|| p[2]) };
            let masked = masked.then(|| Masked { token: p[mask_token - 1], masked: mask.clone() });
            let visible: Arc<[usize]> = (0..batch * count).filter(|&position| !mask[position]).collect();
            let patches = tape.select_rows(&x[0], &visible);
            tape.tokens(&patches, batch, prefix, p[1], masked)
        },
    )
}

/// Which images, of 40, 0, 1 and 29 rows, keep a branch.
#[derive(Clone, Copy, Debug)]
enum Kept {
    All,
    ButTheThird,
    None,
}

impl Kept {
    fn drop_path(self) -> Option<DropPath> {
        let keeps = |image: usize| matches!(self, Kept::ButTheThird) && image != 2;
        (!matches!(self, Kept::All)).then(|| DropPath::new(1.25, &[0, 40, 40, 41, 70], keeps))
    }

    fn rows(self) -> Vec<usize> {
        (0..70).filter(|&row| self.scale(row) != 0.0).collect()
    }

    /// Factor of the branch of a row.
    fn scale(self, row: usize) -> f64 {
        match self {
            Kept::All => 1.0,
            Kept::ButTheThird if row != 40 => 1.25,
            Kept::ButTheThird | Kept::None => 0.0,
        }
    }
}

fn linear_residual(kept: Kept, inputs: usize, scaled: bool) -> Case {
    let outputs = 35;
    let mut random = Random(6);
    let mut parameters = vec![random.tensor(&[outputs, inputs], 0.5), random.tensor(&[outputs], 1.0)];
    parameters.extend(scaled.then(|| random.tensor(&[outputs], 1.0)));
    Case::new(
        format!("linear_residual, {inputs} inputs, {kept:?} kept, LayerScale {scaled}"),
        vec![random.tensor(&[70, outputs], 1.0), random.tensor(&[70, inputs], 1.0)],
        parameters,
        move |a| {
            let branch =
                |row: usize, output: usize| dot(&a[1][row * inputs..][..inputs], &a[2][output * inputs..][..inputs]) + a[3][output];
            let gamma = |output: usize| a.get(4).map_or(1.0, |gamma| gamma[output]);
            (0..70 * outputs).map(|i| a[0][i] + kept.scale(i / outputs) * gamma(i % outputs) * branch(i / outputs, i % outputs)).collect()
        },
        move |tape, x, p| {
            let branch = tape.select_rows(&x[1], &kept.rows().into());
            let drop_path = kept.drop_path();
            let how = Residual { gamma: p.get(2).copied(), drop_path: drop_path.as_ref() };
            tape.linear_residual(&x[0], &branch, Layer { weight: p[0], bias: Some(p[1]) }, how)
        },
    )
}

fn norm(p: &[ParameterId]) -> Norm {
    Norm { weight: p[0], bias: p[1], eps: EPS }
}

/// Normalizes the rows of x, with weight and bias.
fn normal(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let width = weight.len();
    let row = |x: &[f64]| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / width as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        (0..width).map(|i| (x[i] - mean) / (variance + EPS as f64).sqrt() * weight[i] + bias[i]).collect()
    };
    x.chunks(width).flat_map(row).collect()
}

/// Multiplies the rows of x by Wᵀ and adds b.
fn affine(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let inputs = weight.len() / bias.len();
    let row = |x: &[f64]| -> Vec<f64> { bias.iter().zip(weight.chunks(inputs)).map(|(b, w)| dot(x, w) + b).collect() };
    x.chunks(inputs).flat_map(row).collect()
}

fn norm_linear(rows: usize, inputs: usize, outputs: usize) -> Case {
    let mut random = Random(16);
    let parameters = [vec![inputs], vec![inputs], vec![outputs, inputs], vec![outputs]].map(|shape| random.tensor(&shape, 0.8));
    Case::new(
        format!("norm_linear {rows}x{inputs}x{outputs}"),
        vec![random.tensor(&[rows, inputs], 1.0)],
        parameters.into(),
        |a| affine(&normal(&a[0], &a[1], &a[2]), &a[3], &a[4]),
        |tape, x, p| tape.norm_linear(&x[0], norm(p), Layer { weight: p[2], bias: Some(p[3]) }, None),
    )
}

/// x + s (norm(x) W₁ᵀ W₂ᵀ): the first and last operator of a branch, which share the stream and its
/// gradient.
fn branch(kept: Kept) -> Case {
    let (width, inner) = (13, 37);
    let mut random = Random(17);
    let shapes = [vec![width], vec![width], vec![inner, width], vec![inner], vec![width, inner], vec![width]];
    Case::new(
        format!("norm_linear and linear_residual, {kept:?} kept"),
        vec![random.tensor(&[70, width], 1.0)],
        shapes.map(|shape| random.tensor(&shape, 0.5)).into(),
        move |a| {
            let branch = affine(&affine(&normal(&a[0], &a[1], &a[2]), &a[3], &a[4]), &a[5], &a[6]);
            (0..70 * width).map(|i| a[0][i] + kept.scale(i / width) * branch[i]).collect()
        },
        move |tape, x, p| {
            let drop_path = kept.drop_path();
            let y = tape.norm_linear(&x[0], norm(p), Layer { weight: p[2], bias: Some(p[3]) }, drop_path.as_ref());
            let how = Residual { gamma: None, drop_path: drop_path.as_ref() };
            tape.linear_residual(&x[0], &y, Layer { weight: p[4], bias: Some(p[5]) }, how)
        },
    )
}

/// Two branches in sequence, so that a value has two readers whose gradients are added.
fn mlp(width: usize, inner: usize, kept: Kept, scaled: bool) -> Case {
    let mut random = Random(7);
    let mut shapes = vec![vec![width], vec![width], vec![inner, width], vec![inner], vec![width, inner], vec![width]];
    shapes.extend(scaled.then(|| vec![width]));
    let parameters = shapes.iter().map(|shape| random.tensor(shape, 1.0 / (width as f32).sqrt())).collect();
    let block = move |x: &[f64], a: &[Vec<f64>]| -> Vec<f64> {
        let hidden: Vec<f64> = affine(&normal(x, &a[1], &a[2]), &a[3], &a[4]).iter().map(|h| h * normal_cdf(*h)).collect();
        let gamma = |column: usize| a.get(7).map_or(1.0, |gamma| gamma[column]);
        affine(&hidden, &a[5], &a[6])
            .iter()
            .enumerate()
            .map(|(i, branch)| x[i] + kept.scale(i / width) * gamma(i % width) * branch)
            .collect()
    };
    Case::new(
        format!("mlp {width} {inner}, {kept:?} kept, LayerScale {scaled}"),
        vec![random.tensor(&[70, width], 1.0)],
        parameters,
        move |a| block(&block(&a[0], a), a),
        move |tape, x, p| {
            let layers = [Layer { weight: p[2], bias: Some(p[3]) }, Layer { weight: p[4], bias: Some(p[5]) }];
            let drop_path = kept.drop_path();
            let how = Residual { gamma: p.get(6).copied(), drop_path: drop_path.as_ref() };
            let y = tape.mlp(&x[0], norm(p), layers, how);
            tape.mlp(&y, norm(p), layers, how)
        },
    )
}

fn batch_norm(rows: usize, width: usize, affine: bool) -> Case {
    let mut random = Random(8);
    let parameters = if affine { vec![random.tensor(&[width], 1.0), random.tensor(&[width], 1.0)] } else { vec![] };
    Case::new(
        format!("batch_norm {rows}x{width}, affine and relu {affine}"),
        vec![random.tensor(&[rows, width], 1.5)],
        parameters,
        move |a| {
            let column = |i: usize| (0..rows).map(move |row| a[0][row * width + i]);
            let mean: Vec<f64> = (0..width).map(|i| column(i).sum::<f64>() / rows as f64).collect();
            let variance = |i: usize| column(i).map(|x| (x - mean[i]).powi(2)).sum::<f64>() / rows as f64;
            let std: Vec<f64> = (0..width).map(|i| (variance(i) + 1e-5).sqrt()).collect();
            let normal = |i: usize| (a[0][i] - mean[i % width]) / std[i % width];
            let y = |i: usize| if affine { (normal(i) * a[1][i % width] + a[2][i % width]).max(0.0) } else { normal(i) };
            (0..rows * width).map(y).collect()
        },
        move |tape, x, p| {
            let mut running = RunningStatistics::new(width);
            tape.batch_norm(&x[0], affine.then(|| (p[0], p[1])), affine, &mut running)
        },
    )
}

#[derive(Clone, Copy, Debug)]
struct NceShape {
    groups: usize,
    /// Rows of each group.
    rows: usize,
    candidates: usize,
    separate: bool,
    sample_ids: bool,
    temperature: f32,
}

fn info_nce(shape: NceShape) -> Case {
    let NceShape { groups, rows, candidates, separate, temperature, .. } = shape;
    let width = 19;
    let mut random = Random(9);
    let keys = random.tensor(&[groups, candidates, width], 2.0);
    let positives = random.tensor(&[groups * rows, width], 2.0);
    let targets: Vec<u32> = (0..groups * rows).map(|_| random.below(candidates.max(1)) as u32).collect();
    let ids: [Vec<u64>; 2] = [groups * rows, candidates].map(|n| (0..n).map(|_| random.below(7) as u64).collect());
    let (k, p, target_of, id) = (to_f64(&keys.to_host()), to_f64(&positives.to_host()), targets.clone(), ids.clone());
    Case::new(
        format!("info_nce {shape:?}"),
        vec![random.tensor(&[groups * rows, width], 0.7)],
        vec![],
        move |a| {
            let logit = |row: usize, key: &[f64]| {
                let q = &a[0][row * width..][..width];
                dot(q, key) / (dot(q, q) * dot(key, key)).sqrt() / temperature as f64
            };
            let key = |row: usize, j: usize| &k[(row / rows * candidates + j) * width..][..width];
            let loss = |row: usize| {
                let target = target_of[row] as usize;
                let kept = |j: &usize| !shape.sample_ids || id[0][row] != id[1][*j] || (!separate && *j == target);
                let negatives = (0..candidates).filter(kept).map(|j| logit(row, key(row, j)).exp()).sum::<f64>();
                let positive = logit(row, if separate { &p[row * width..][..width] } else { key(row, target) });
                (negatives + if separate { positive.exp() } else { 0.0 }).ln() - positive
            };
            vec![(0..groups * rows).map(loss).sum::<f64>() / ((groups * rows).max(1)) as f64]
        },
        move |tape, x, _| {
            let positive = if separate { Positive::Separate(&positives) } else { Positive::InKeys(&targets) };
            let sample_ids = shape.sample_ids.then_some((&ids[0][..], &ids[1][..]));
            tape.info_nce(&x[0], &ContrastiveTargets { keys: &keys, positive, sample_ids, temperature }).0
        },
    )
}

fn l1(rows: usize) -> Case {
    let mut random = Random(10);
    let target = random.tensor(&[rows, 7], 1.0);
    let mut prediction = random.tensor(&[rows, 7], 1.0).to_host().into_owned();
    if rows > 0 {
        prediction[9] = target.to_host()[9]; // gradient 0, of the central difference too
    }
    let prediction = Tensor::from_slice([rows, 7], &prediction);
    let t = to_f64(&target.to_host());
    Case::new(
        format!("l1 of {rows} rows"),
        vec![prediction],
        vec![],
        move |a| vec![a[0].iter().zip(&t).map(|(p, t)| (p - t).abs()).sum::<f64>() / (t.len().max(1)) as f64],
        move |tape, x, _| tape.l1(&x[0], &target),
    )
}

fn select_rows() -> Case {
    let indices: Arc<[usize]> = [4, 0, 8, 4, 3, 4].into();
    let rows = indices.clone();
    Case::new(
        "select_rows",
        vec![Random(11).tensor(&[9, 21], 1.0)],
        vec![],
        move |a| rows.iter().flat_map(|row| a[0][row * 21..][..21].to_vec()).collect(),
        move |tape, x, _| tape.select_rows(&x[0], &indices),
    )
}

/// Images of 5, 1, 0 and 9 rows; an image without patch tokens has the mean 0.
fn mean_tokens(prefix: usize) -> Case {
    let ends = [0, 5, 6, 6, 15];
    let offsets: Arc<[usize]> = ends.into();
    Case::new(
        format!("mean_tokens after {prefix}"),
        vec![Random(12).tensor(&[15, 21], 1.0)],
        vec![],
        move |a| {
            let mean = |image: usize, i: usize| {
                let rows: Vec<usize> = (ends[image]..ends[image + 1]).skip(prefix).collect();
                rows.iter().map(|row| a[0][row * 21 + i]).sum::<f64>() / rows.len().max(1) as f64
            };
            (0..4 * 21).map(|i| mean(i / 21, i % 21)).collect()
        },
        move |tape, x, _| tape.mean_tokens(&x[0], &offsets, prefix),
    )
}

fn weighted_sum() -> Case {
    let mut random = Random(13);
    Case::new(
        "weighted_sum",
        (0..3).map(|_| random.tensor(&[1], 1.0)).collect(),
        vec![],
        |a| vec![0.5 * a[0][0] - 2.0 * a[1][0] + 0.25 * a[2][0]],
        |tape, x, _| tape.weighted_sum(&[(x[0].clone(), 0.5), (x[1].clone(), -2.0), (x[2].clone(), 0.25)]),
    )
}

fn mean_square(rows: usize) -> Case {
    Case::new(
        format!("mean_square of {rows} rows"),
        vec![Random(14).tensor(&[rows, 7], 1.0)],
        vec![],
        |a| vec![a[0].iter().map(|x| (x - 0.5).powi(2)).sum::<f64>() / a[0].len().max(1) as f64],
        |tape, x, _| tape.mean_square(&x[0], 0.5),
    )
}
