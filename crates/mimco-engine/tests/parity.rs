//! Every operator against PyTorch: forward and all gradients, computed there in f64 (fixtures/make_fixtures.py).

use mimco_engine::ops::{
    Activation, Candidates, Contrast, DropPath, Layer, Masked, Norm, Prefix, Residual, RunningStatistics, layer_norm_plain,
};
use mimco_engine::optim::{Optimizer, Rule, clip_factor, gradient_norm};
use mimco_engine::{ParameterId, Parameters, Tape, Tensor, Var};
use safetensors::{Dtype, SafeTensors};
use std::sync::Arc;

/// Largest ‖x - x'‖ / ‖x'‖ between the engine's x and PyTorch's x'.
const TOLERANCE: f64 = 2e-6;

/// One operator's tensors, or one case's: names get the case's prefix.
struct Fixture {
    bytes: Vec<u8>,
    case: &'static str,
}

impl Fixture {
    fn read(operator: &str, case: &'static str) -> Fixture {
        let path = format!("{}/tests/fixtures/{operator}.safetensors", env!("CARGO_MANIFEST_DIR"));
        Fixture { bytes: std::fs::read(path).unwrap(), case }
    }

    /// Shape and little-endian elements of four bytes.
    fn raw(&self, name: &str, dtype: Dtype) -> (Vec<usize>, Vec<[u8; 4]>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let name = format!("{}{name}", self.case);
        let view = file.tensor(&name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(view.dtype(), dtype, "{name}");
        let elements = view.data().chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect();
        (view.shape().to_vec(), elements)
    }

    fn tensor(&self, name: &str) -> Tensor {
        let (shape, elements) = self.raw(name, Dtype::F32);
        let elements: Vec<f32> = elements.into_iter().map(f32::from_le_bytes).collect();
        Tensor::from_slice(&shape[..], &elements)
    }

    fn integers(&self, name: &str) -> Vec<usize> {
        let (_, elements) = self.raw(name, Dtype::I32);
        elements.into_iter().map(|b| usize::try_from(i32::from_le_bytes(b)).unwrap()).collect()
    }

    fn rows(&self, name: &str) -> Arc<[usize]> {
        self.integers(name).into()
    }

    /// The fixture's tensors of these names as trainable parameters.
    fn parameters<const N: usize>(&self, names: [&str; N]) -> (Parameters, [ParameterId; N]) {
        let mut parameters = Parameters::new();
        let ids = names.map(|name| {
            let value = self.tensor(name);
            let id = parameters.add(name, value.dims());
            parameters.get_mut(id).copy_from_slice(value.data());
            id
        });
        (parameters, ids)
    }

    fn check(&self, name: &str, found: &[f32]) {
        let expected = self.tensor(name);
        let expected = expected.data();
        let name = format!("{}{name}", self.case);
        assert_eq!(found.len(), expected.len(), "{name}: number of elements");
        let square = |x: f64| x * x;
        let difference: f64 = found.iter().zip(expected).map(|(&a, &b)| square(a as f64 - b as f64)).sum();
        let error = (difference / expected.iter().map(|&b| square(b as f64)).sum::<f64>()).sqrt();
        assert!(error <= TOLERANCE, "{name}: relative error {error:.1e}");
    }

    /// Runs `operator` on the input `leaf`, then checks its output, the gradient of `leaf` and those of the parameters.
    fn operator(&self, parameters: &Parameters, leaf: &str, operator: impl Fn(&mut Tape<'_>, &Var) -> Var) {
        let inference = operator(&mut Tape::inference(parameters), &Var::constant(self.tensor(leaf)));
        self.check("output", inference.value.data());

        let mut tape = Tape::recording(parameters);
        let x = tape.leaf(self.tensor(leaf));
        let y = operator(&mut tape, &x);
        self.check("output", y.value.data());
        let mut gradients = parameters.zeros_like();
        let dx = tape.backward(&y, self.tensor("grad_output"), &mut gradients, Some(&x));
        self.check(&format!("grad_{leaf}"), dx.expect("a gradient of the input").data());
        self.check_gradients(parameters, &gradients);
    }

    fn check_gradients(&self, parameters: &Parameters, gradients: &[f32]) {
        for entry in parameters.entries() {
            self.check(&format!("grad_{}", entry.name), &gradients[entry.range.clone()]);
        }
    }
}

fn ids(values: Vec<usize>) -> Vec<u64> {
    values.into_iter().map(|value| value as u64).collect()
}

fn targets(values: Vec<usize>) -> Vec<u32> {
    values.into_iter().map(|value| u32::try_from(value).unwrap()).collect()
}

#[test]
fn linear() {
    for (case, activation) in [("plain.", Activation::None), ("gelu.", Activation::Gelu)] {
        let fixture = Fixture::read("linear", case);
        let (parameters, [weight, bias]) = fixture.parameters(["weight", "bias"]);
        fixture.operator(&parameters, "x", |tape, x| tape.linear(x, Layer { weight, bias: Some(bias) }, activation));
    }
}

#[test]
fn layer_norm() {
    let fixture = Fixture::read("layer_norm", "");
    let (parameters, [weight, bias]) = fixture.parameters(["weight", "bias"]);
    fixture.operator(&parameters, "x", |tape, x| tape.layer_norm(x, Norm { weight, bias, eps: 1e-6 }));
    fixture.check("plain_output", layer_norm_plain(&fixture.tensor("x"), 1e-6).data());
}

#[test]
fn attention() {
    let fixture = Fixture::read("attention", "");
    let offsets = fixture.rows("offsets");
    fixture.operator(&Parameters::new(), "qkv", |tape, qkv| tape.attention(qkv, &offsets, 2));
}

#[test]
fn patch_embed() {
    let fixture = Fixture::read("patch_embed", "");
    let (parameters, [weight, bias]) = fixture.parameters(["weight", "bias"]);
    let (images, mean, std) = (fixture.tensor("images"), fixture.tensor("mean"), fixture.tensor("std"));
    let mut tape = Tape::recording(&parameters);
    let y = tape.patch_embed(&images, mean.data(), std.data(), Layer { weight, bias: Some(bias) }, None);
    fixture.check("output", y.value.data());
    let mut gradients = parameters.zeros_like();
    tape.backward(&y, fixture.tensor("grad_output"), &mut gradients, None);
    fixture.check_gradients(&parameters, &gradients);
}

#[test]
fn assemble_tokens() {
    let fixture = Fixture::read("assemble_tokens", "");
    let (parameters, [class, positions, token]) = fixture.parameters(["cls", "pos", "mask_token"]);
    let places: Arc<[bool]> = fixture.integers("mask").into_iter().map(|hidden| hidden == 1).collect();
    // PyTorch's has a row for every patch, hidden ones, too; ours wants those that are seen.
    let seen: Arc<[usize]> = (0..places.len()).filter(|&place| !places[place]).collect();
    fixture.operator(&parameters, "patches", |tape, patches| {
        let patches = tape.select_rows(patches, &seen);
        tape.tokens(&patches, 3, Prefix { class, registers: None }, positions, Some(Masked { token, places: places.clone() }))
    });
}

/// An image keeps its branch where its scale is not 0; the others' is the same.
fn drop_path(fixture: &Fixture) -> DropPath {
    let scales = fixture.tensor("scale");
    DropPath::new(scales.data()[0], &fixture.rows("offsets"), |image| scales.data()[image] != 0.0)
}

fn how(drop_path: &DropPath) -> Residual<'_> {
    Residual { gamma: None, drop_path: Some(drop_path) }
}

#[test]
fn linear_residual() {
    let fixture = Fixture::read("linear_residual", "");
    let drop_path = drop_path(&fixture);
    let (parameters, [weight, bias]) = fixture.parameters(["weight", "bias"]);
    // One leaf's gradient comes back a pass: each input takes its turn. Both want it, as in a block.
    for wanted in ["residual", "x"] {
        fixture.operator(&parameters, wanted, |tape, input| {
            let other = Var::constant(fixture.tensor(if wanted == "residual" { "x" } else { "residual" }));
            let (residual, x) = if wanted == "residual" { (input, &other) } else { (&other, input) };
            // PyTorch's branch has all rows; ours wants those that keep it.
            let x = tape.select_rows(x, &drop_path.rows);
            tape.linear_residual(residual, &x, Layer { weight, bias: Some(bias) }, how(&drop_path))
        });
    }
}

#[test]
fn norm_linear() {
    let fixture = Fixture::read("norm_linear", "");
    let (parameters, [weight, bias, w, b]) = fixture.parameters(["norm_weight", "norm_bias", "weight", "bias"]);
    let norm = Norm { weight, bias, eps: 1e-6 };
    fixture.operator(&parameters, "x", |tape, x| tape.norm_linear(x, norm, Layer { weight: w, bias: Some(b) }, None));
}

#[test]
fn mlp() {
    let fixture = Fixture::read("mlp", "");
    let drop_path = drop_path(&fixture);
    let (parameters, [weight, bias, w1, b1, w2, b2]) =
        fixture.parameters(["norm_weight", "norm_bias", "weight1", "bias1", "weight2", "bias2"]);
    let norm = Norm { weight, bias, eps: 1e-6 };
    let layers = [Layer { weight: w1, bias: Some(b1) }, Layer { weight: w2, bias: Some(b2) }];
    fixture.operator(&parameters, "x", |tape, x| tape.mlp(x, norm, layers, how(&drop_path)));
}

#[test]
fn batch_norm() {
    let affine = Fixture::read("batch_norm", "affine_relu.");
    let (parameters, [weight, bias]) = affine.parameters(["weight", "bias"]);
    check_batch_norm(&affine, &parameters, Some((weight, bias)));
    check_batch_norm(&Fixture::read("batch_norm", "plain."), &Parameters::new(), None);
}

fn check_batch_norm(fixture: &Fixture, parameters: &Parameters, affine: Option<(ParameterId, ParameterId)>) {
    fixture.operator(parameters, "x", |tape, x| {
        let mut running = RunningStatistics::new(x.value.width());
        let y = tape.batch_norm(x, affine, affine.is_some(), &mut running);
        fixture.check("running_mean", &running.mean);
        fixture.check("running_var", &running.variance);
        y
    });
}

#[test]
fn info_nce() {
    for case in ["batch.", "image."] {
        let fixture = Fixture::read("info_nce", case);
        check_info_nce(&fixture, Candidates::Among(&targets(fixture.integers("targets"))), None);
    }

    let fixture = Fixture::read("info_nce", "exclude.");
    let owners = (ids(fixture.integers("row_ids")), ids(fixture.integers("key_ids")));
    let among = targets(fixture.integers("targets"));
    check_info_nce(&fixture, Candidates::Among(&among), Some((&owners.0, &owners.1)));

    let fixture = Fixture::read("info_nce", "separate.");
    let owners = (ids(fixture.integers("row_ids")), ids(fixture.integers("key_ids")));
    check_info_nce(&fixture, Candidates::Beside(&fixture.tensor("positives")), Some((&owners.0, &owners.1)));
}

fn check_info_nce(fixture: &Fixture, candidates: Candidates<'_>, owners: Option<(&[u64], &[u64])>) {
    let contrast = Contrast { keys: &fixture.tensor("keys"), candidates, owners, temperature: 0.2 };
    fixture.operator(&Parameters::new(), "queries", |tape, queries| {
        let (loss, wins) = tape.info_nce(queries, &contrast);
        fixture.check("acc", &[wins]);
        loss
    });
}

#[test]
fn l1() {
    let fixture = Fixture::read("l1", "");
    let target = fixture.tensor("target");
    fixture.operator(&Parameters::new(), "prediction", |tape, prediction| tape.l1(prediction, &target));
}

#[test]
fn select_rows() {
    let fixture = Fixture::read("select_rows", "");
    let indices = fixture.rows("indices");
    fixture.operator(&Parameters::new(), "x", |tape, x| tape.select_rows(x, &indices));
}

#[test]
fn mean_tokens() {
    let fixture = Fixture::read("mean_tokens", "");
    let offsets = fixture.rows("offsets");
    fixture.operator(&Parameters::new(), "x", |tape, x| tape.mean_tokens(x, &offsets, 1));
}

#[test]
fn adamw() {
    check_optimizer("adamw", Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 });
}

#[test]
fn sgd() {
    check_optimizer("sgd", Rule::Sgd { momentum: 0.9 });
}

/// Three steps on `a` with decay at the full rate and `b` without decay at half of it.
fn check_optimizer(name: &str, rule: Rule) {
    let fixture = Fixture::read(name, "");
    let (mut parameters, [a, b]) = fixture.parameters(["a", "b"]);
    parameters.entry_mut(a).decay = 1.0;
    parameters.entry_mut(b).decay = 0.0;
    parameters.entry_mut(b).rate = 0.5;
    let mut optimizer = Optimizer::new(rule, 0.05, &parameters);
    for step in 0..3 {
        let mut gradients = parameters.zeros_like();
        for id in [a, b] {
            let entry = parameters.entry(id);
            let gradient = fixture.tensor(&format!("grads.{step}.{}", entry.name));
            gradients[entry.range.clone()].copy_from_slice(gradient.data());
        }
        optimizer.step(&mut parameters, &gradients, fixture.tensor("rate").item(), 1.0);
        fixture.check(&format!("after.{step}.a"), parameters.get(a));
        fixture.check(&format!("after.{step}.b"), parameters.get(b));
    }
}

#[test]
fn clip() {
    for case in ["above.", "below."] {
        let fixture = Fixture::read("clip", case);
        let gradients = fixture.tensor("grads");
        let norm = gradient_norm(gradients.data());
        fixture.check("norm", &[norm]);
        let factor = clip_factor(norm, fixture.tensor("max_norm").item());
        let clipped: Vec<f32> = gradients.data().iter().map(|g| g * factor).collect();
        fixture.check("clipped", &clipped);
    }
}
