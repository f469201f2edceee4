//! Every operator against PyTorch: the forward pass and all gradients, which PyTorch computed in
//! f64 (fixtures/make_fixtures.py).

use mimco_engine::ops::{
    Activation, ContrastiveTargets, DropPath, Layer, Masked, Norm, Positive, Prefix, Residual, RunningStatistics, layer_norm_plain,
};
use mimco_engine::optim::{Optimizer, Rule, finite_flag};
use mimco_engine::{Gradients, ParameterId, Parameters, Tape, Tensor, Var};
use safetensors::{Dtype, SafeTensors};
use std::sync::Arc;

/// Largest ‖x - x'‖ / ‖x'‖ between the engine's x and PyTorch's x'.
const TOLERANCE: f64 = 2e-6;

/// Tensors of one operator, or of one case of it, whose prefix the names get.
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
            parameters.update_on_host(id, |to| to.copy_from_slice(&value.to_host()));
            id
        });
        (parameters, ids)
    }

    fn check(&self, name: &str, found: &[f32]) {
        let expected = self.tensor(name);
        let expected = expected.to_host();
        let name = format!("{}{name}", self.case);
        assert_eq!(found.len(), expected.len(), "{name}: number of elements");
        let square = |x: f64| x * x;
        let difference: f64 = found.iter().zip(&expected[..]).map(|(&a, &b)| square(a as f64 - b as f64)).sum();
        let error = (difference / expected.iter().map(|&b| square(b as f64)).sum::<f64>()).sqrt();
        assert!(error <= TOLERANCE, "{name}: relative error {error:.1e}");
    }

    /// Runs `operator` on the input `leaf`, then checks its output and the gradients of `leaf` and
    /// of the parameters.
    fn operator(&self, parameters: &Parameters, leaf: &str, operator: impl Fn(&mut Tape<'_>, &Var) -> Var) {
        let inference = operator(&mut Tape::inference(parameters), &Var::constant(self.tensor(leaf)));
        self.check("output", &inference.value.to_host());

        let mut tape = Tape::recording(parameters);
        let x = tape.leaf(self.tensor(leaf));
        let y = operator(&mut tape, &x);
        self.check("output", &y.value.to_host());
        let mut gradients = parameters.gradients();
        let dx = tape.backward(&y, self.tensor("grad_output"), &mut gradients, Some(&x));
        self.check(&format!("grad_{leaf}"), &dx.expect("a gradient of the input").to_host());
        self.check_gradients(parameters, &gradients);
    }

    fn check_gradients(&self, parameters: &Parameters, gradients: &Gradients) {
        for entry in parameters.entries() {
            self.check(&format!("grad_{}", entry.name), &gradients.flat_to_host()[entry.range.clone()]);
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
    fixture.check("plain_output", &layer_norm_plain(&fixture.tensor("x"), 1e-6).to_host());
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
    let y = tape.patch_embed(&images, &mean.to_host(), &std.to_host(), Layer { weight, bias: Some(bias) }, None);
    fixture.check("output", &y.value.to_host());
    let mut gradients = parameters.gradients();
    tape.backward(&y, fixture.tensor("grad_output"), &mut gradients, None);
    fixture.check_gradients(&parameters, &gradients);
}

#[test]
fn assemble_tokens() {
    let fixture = Fixture::read("assemble_tokens", "");
    let (parameters, [class, positions, token]) = fixture.parameters(["cls", "pos", "mask_token"]);
    let masked: Arc<[bool]> = fixture.integers("mask").into_iter().map(|masked| masked == 1).collect();
    // The fixture has a row for every patch, the operator one for every visible patch.
    let visible: Arc<[usize]> = (0..masked.len()).filter(|&i| !masked[i]).collect();
    fixture.operator(&parameters, "patches", |tape, patches| {
        let patches = tape.select_rows(patches, &visible);
        tape.tokens(&patches, 3, Prefix { class, registers: None }, positions, Some(Masked { token, masked: masked.clone() }))
    });
}

/// Keeps the branch of the images whose scale is not 0; all others have the same scale.
fn drop_path(fixture: &Fixture) -> DropPath {
    let scales = fixture.tensor("scale");
    DropPath::new(scales.to_host()[0], &fixture.rows("offsets"), |image| scales.to_host()[image] != 0.0)
}

fn how(drop_path: &DropPath) -> Residual<'_> {
    Residual { gamma: None, drop_path: Some(drop_path) }
}

#[test]
fn linear_residual() {
    let fixture = Fixture::read("linear_residual", "");
    let drop_path = drop_path(&fixture);
    let (parameters, [weight, bias]) = fixture.parameters(["weight", "bias"]);
    // A backward pass returns one leaf's gradient, so each input is the leaf of one pass.
    for wanted in ["residual", "x"] {
        fixture.operator(&parameters, wanted, |tape, input| {
            let other = Var::constant(fixture.tensor(if wanted == "residual" { "x" } else { "residual" }));
            let (residual, x) = if wanted == "residual" { (input, &other) } else { (&other, input) };
            // The fixture's branch has all rows, the operator's only those that keep it.
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
        fixture.check("running_mean", &running.mean_to_host());
        fixture.check("running_var", &running.variance_to_host());
        y
    });
}

#[test]
fn info_nce() {
    for case in ["batch.", "image."] {
        let fixture = Fixture::read("info_nce", case);
        check_info_nce(&fixture, Positive::InKeys(&targets(fixture.integers("targets"))), None);
    }

    let fixture = Fixture::read("info_nce", "exclude.");
    let sample_ids = (ids(fixture.integers("row_ids")), ids(fixture.integers("key_ids")));
    let in_keys = targets(fixture.integers("targets"));
    check_info_nce(&fixture, Positive::InKeys(&in_keys), Some((&sample_ids.0, &sample_ids.1)));

    let fixture = Fixture::read("info_nce", "separate.");
    let sample_ids = (ids(fixture.integers("row_ids")), ids(fixture.integers("key_ids")));
    check_info_nce(&fixture, Positive::Separate(&fixture.tensor("positives")), Some((&sample_ids.0, &sample_ids.1)));
}

fn check_info_nce(fixture: &Fixture, positive: Positive<'_>, sample_ids: Option<(&[u64], &[u64])>) {
    let targets = ContrastiveTargets { keys: &fixture.tensor("keys"), positive, sample_ids, temperature: 0.2 };
    fixture.operator(&Parameters::new(), "queries", |tape, queries| {
        let (loss, wins) = tape.info_nce(queries, &targets);
        fixture.check("acc", &wins.to_host());
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

/// Runs three steps on `a` with decay at the full rate and on `b` without decay at half the rate.
fn check_optimizer(name: &str, rule: Rule) {
    let fixture = Fixture::read(name, "");
    let (mut parameters, [a, b]) = fixture.parameters(["a", "b"]);
    parameters.entry_mut(a).decay = 1.0;
    parameters.entry_mut(b).decay = 0.0;
    parameters.entry_mut(b).rate = 0.5;
    let mut optimizer = Optimizer::new(rule, 0.05, &parameters);
    for step in 0..3 {
        let mut gradients = parameters.gradients();
        for id in [a, b] {
            let gradient = fixture.tensor(&format!("grads.{step}.{}", parameters.entry(id).name));
            gradients.update_on_host(id, |to| to.copy_from_slice(&gradient.to_host()));
        }
        optimizer.step(&mut parameters, &gradients, fixture.tensor("rate").item(), 0.0, &gradients.norm(), &Tensor::scalar(1.0));
        fixture.check(&format!("after.{step}.a"), &parameters.to_host(a));
        fixture.check(&format!("after.{step}.b"), &parameters.to_host(b));
    }
}

#[test]
fn clip() {
    for case in ["above.", "below."] {
        let fixture = Fixture::read("clip", case);
        let values = fixture.tensor("grads");
        let mut parameters = Parameters::new();
        let id = parameters.add("parameter", values.dims());
        let mut gradients = parameters.gradients();
        gradients.update_on_host(id, |to| to.copy_from_slice(&values.to_host()));
        let norm = gradients.norm();
        fixture.check("norm", &norm.to_host());
        // One step of plain SGD from 0 at rate 1 subtracts the clipped gradient.
        let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.0 }, 0.0, &parameters);
        let finite = finite_flag(&norm, &[]);
        optimizer.step(&mut parameters, &gradients, 1.0, fixture.tensor("max_norm").item(), &norm, &finite);
        let clipped: Vec<f32> = parameters.to_host(id).iter().map(|w| -w).collect();
        fixture.check("clipped", &clipped);
    }
}
