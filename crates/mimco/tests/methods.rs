//! Both methods against a PyTorch implementation written for this test (fixtures/make_methods.py):
//! losses, accuracies and the gradient of every parameter; and against values computed here in f64.

use mimco::interop::read::weights::Weights;
use mimco::methods::mask::{MaskGenerator, PatchMask};
use mimco::methods::mimco::Mimco;
use mimco::methods::moco_v3::MocoV3;
use mimco::methods::settings::mask::MaskSettings;
use mimco::methods::settings::mimco::{ImageLoss, MimcoSettings, MimcoSpec, PatchCandidates, PatchLoss, Pooling, StudentInit, TeacherNorm};
use mimco::methods::settings::moco_v3::{MocoV3Settings, MocoV3Spec};
use mimco::methods::{BuildContext, Method, StepInfo};
use mimco::models::arch::Arch;
use mimco::models::backbone::Backbone;
use mimco::models::vit::{ForwardOptions, Initialization, Position, Vit, VitConfig};
use mimco_engine::ops::Masked;
use mimco_engine::{Gradients, Parameters, Precision, Tape, Tensor};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
const HALVES: ([f32; 3], [f32; 3]) = ([0.5; 3], [0.5; 3]);
const INFO: StepInfo = StepInfo { step: 0, draw: 0, total: 10, epoch: 0, seed: 1 };

fn vit(width: usize, depth: usize, heads: usize, position: Position, (mean, std): ([f32; 3], [f32; 3])) -> VitConfig {
    VitConfig { heads, position, mean, std, ..VitConfig::plain(width, depth, 4 * width, 4, 16) }
}

/// A fixture's numbers.
struct File {
    tensors: BTreeMap<String, Array>,
}

struct Array {
    shape: Vec<usize>,
    data: Vec<f32>,
}

fn fixture(name: &str) -> File {
    let weights = Weights::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.safetensors"))).unwrap();
    let array = |(name, array): (&String, &mimco::interop::read::weights::Array)| {
        (name.clone(), Array { shape: array.shape.clone(), data: weights.read(name).unwrap() })
    };
    File { tensors: weights.tensors.iter().map(array).collect() }
}

trait Arrays {
    fn get(&self, name: &str) -> &Array;
    fn tensor(&self, name: &str) -> Tensor;
    fn set(&self, parameters: &mut Parameters, prefix: &str);
    fn check(&self, name: &str, found: &[f32]);
}

impl Arrays for File {
    fn get(&self, name: &str) -> &Array {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture lacks {name}"))
    }

    fn tensor(&self, name: &str) -> Tensor {
        let array = self.get(name);
        Tensor::from_slice(&array.shape[..], &array.data)
    }

    /// Sets every parameter from the array named `prefix` and its name.
    fn set(&self, parameters: &mut Parameters, prefix: &str) {
        for entry in parameters.entries().to_vec() {
            let array = self.get(&format!("{prefix}{}", entry.name));
            assert_eq!(array.shape, entry.shape, "{}", entry.name);
            parameters.update_flat_on_host(|flat| flat[entry.range].copy_from_slice(&array.data));
        }
    }

    /// ‖found - expected‖ / ‖expected‖ of at most 1e-4; where the expected one is zero by construction, 1e-6 absolute.
    fn check(&self, name: &str, found: &[f32]) {
        let expected = &self.get(name).data;
        assert_eq!(found.len(), expected.len(), "{name}");
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let size = norm(&mut expected.iter().map(|&v| v as f64));
        let away = norm(&mut found.iter().zip(expected).map(|(&a, &b)| a as f64 - b as f64));
        if size < 1e-6 {
            assert!(away < 1e-6, "{name}: {away:.1e} where zero is expected");
        } else {
            assert!(away / size <= 1e-4, "{name}: relative error {:.1e}", away / size);
        }
    }
}

/// The gradient of every trained parameter that `keep` names.
fn check_gradients(file: &File, parameters: &Parameters, gradients: &Gradients, prefix: &str) -> usize {
    let gradients = gradients.flat_to_host();
    let trained = parameters.entries().iter().filter(|e| e.trainable);
    trained.map(|e| file.check(&format!("{prefix}{}", e.name), &gradients[e.range.clone()])).count()
}

#[test]
fn moco_v3_is_pytorchs() {
    let file = fixture("moco_v3");
    let settings = MocoV3Settings { hidden: 32, out: 8, ..MocoV3Settings::default() };
    let mut method = moco(&vit(16, 2, 2, Position::Sincos, IMAGENET), &settings, Precision::F32);
    file.set(method.parameters_mut(), "");
    file.set(method.momentum_parameters_mut(), "momentum.");
    let mut gradients = method.parameters().gradients();
    let figures = method.losses([&file.tensor("view1"), &file.tensor("view2")], INFO, 1.0, &mut gradients).to_host();
    file.check("loss", &[figures["train/loss"] as f32]);
    file.check("acc", &[(figures["train/acc_image"] / 100.0) as f32]);
    let checked = check_gradients(&file, method.parameters(), &gradients, "grad.");
    assert_eq!(checked, file.tensors.keys().filter(|name| name.starts_with("grad.")).count());
    for entry in method.parameters().entries().iter().filter(|e| !e.trainable) {
        assert!(gradients.flat_to_host()[entry.range.clone()].iter().all(|g| *g == 0.0), "{} is frozen", entry.name);
    }
    // Running statistics of encoder and momentum encoder, each from its own batches.
    let state = method.state();
    for array in state.iter().filter(|a| a.name.contains("running")) {
        file.check(&format!("after.{}", array.name), &array.data);
    }
    // The momentum encoder: target = 0.75 target + 0.25 source half way from 0.5 to 1.
    let settings = MocoV3Settings { momentum: 0.5, ..settings };
    let mut method = moco(&vit(16, 2, 2, Position::Sincos, IMAGENET), &settings, Precision::F32);
    file.set(method.parameters_mut(), "");
    file.set(method.momentum_parameters_mut(), "momentum.");
    method.after_update(StepInfo { step: 5, ..INFO }, &Tensor::scalar(1.0));
    let (ours, theirs) = (file.get("projector.layers.1.weight"), file.get("momentum.projector.layers.1.weight"));
    let state = method.state();
    let moved = state.iter().find(|a| a.name == "momentum.projector.layers.1.weight").unwrap();
    for (moved, (ours, theirs)) in moved.data.iter().zip(ours.data.iter().zip(&theirs.data)) {
        assert!((moved - (0.75 * theirs + 0.25 * ours)).abs() < 1e-6);
    }
}

/// MimCo with the fixture's student and teacher, and the gradient of one batch.
fn mimco(file: &File, change: impl FnOnce(&mut MimcoSettings)) -> (Mimco, BTreeMap<&'static str, f64>, Gradients) {
    let mut settings = MimcoSettings::default();
    change(&mut settings);
    let student = vit(16, 2, 2, Position::Learned, IMAGENET);
    let teacher = backbone(&vit(24, 1, 3, Position::Learned, HALVES), |parameters| file.set(parameters, "teacher."));
    let queued = settings.image_loss == ImageLoss::Queue;
    let mut method = student_of(teacher, &student, settings, Precision::F32);
    file.set(method.parameters_mut(), "");
    if queued {
        fill_queue(&mut method, file);
    }
    let masked: Arc<[bool]> = file_integers("mimco", "mask").into_iter().map(|masked| masked == 1).collect();
    let sample_ids: Vec<u32> = file_integers("mimco", "image_ids").into_iter().map(|id| id as u32).collect();
    let mut gradients = method.parameters().gradients();
    let figures = method.losses(&file.tensor("images"), &PatchMask::new(masked), &sample_ids, INFO, 1.0, &mut gradients).to_host();
    (method, figures, gradients)
}

fn backbone(config: &VitConfig, fill: impl FnOnce(&mut Parameters)) -> Backbone {
    let mut parameters = Parameters::new();
    let vit = Vit::declare(config, &mut parameters, "");
    fill(&mut parameters);
    Backbone { vit, parameters }
}

/// Fills the queue through checkpoint state: features, sample ids and next position.
fn fill_queue(method: &mut Mimco, file: &File) {
    let sample_ids: Vec<f32> = file_integers("mimco", "queue.ids").into_iter().map(|id| id as f32).collect();
    let features = file.get("queue.features").data.clone();
    method
        .restore(&mut |name, _| {
            Ok(match name {
                "queue.features" => features.clone(),
                "queue.owners_low" => sample_ids.clone(),
                "queue.owners_high" => vec![0.0; sample_ids.len()],
                _ => vec![0.0, sample_ids.len() as f32],
            })
        })
        .unwrap();
}

/// Integers of a fixture, which the library's reader leaves out.
fn file_integers(name: &str, tensor: &str) -> Vec<i32> {
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.safetensors"))).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor(tensor).unwrap().data();
    data.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn mimco_is_pytorchs() {
    let file = fixture("mimco");
    let (method, figures, gradients) = mimco(&file, |_| {});
    for (name, figure, unit) in [
        ("loss", "train/loss", 1.0),
        ("loss_patch", "train/loss_patch", 1.0),
        ("loss_image", "train/loss_image", 1.0),
        ("acc_patch", "train/acc_patch", 100.0), // percent
        ("acc_image", "train/acc_image", 100.0),
    ] {
        file.check(name, &[(figures[figure] / unit) as f32]);
    }
    let checked = check_gradients(&file, method.parameters(), &gradients, "grad.");
    assert_eq!(checked, method.parameters().entries().len());
}

#[test]
fn the_other_losses_of_mimco_are_pytorchs() {
    let file = fixture("mimco");
    type Change = fn(&mut MimcoSettings);
    let forms: [(&str, &str, &str, &str, Change); 5] = [
        ("patch_all", "patch_head", "train/loss_patch", "train/acc_patch", |s| s.patch_candidates = PatchCandidates::All),
        ("patch_batch", "patch_head", "train/loss_patch", "train/acc_patch", |s| s.patch_loss = PatchLoss::BatchNegatives),
        ("patch_l1", "patch_head", "train/loss_patch", "", |s| {
            (s.patch_loss, s.teacher_norm, s.image_loss) = (PatchLoss::L1, TeacherNorm::Layer, ImageLoss::Off);
        }),
        ("image_queue", "image_head", "train/loss_image", "train/acc_image", |s| s.image_loss = ImageLoss::Queue),
        ("image_mean", "image_head", "train/loss_image", "train/acc_image", |s| s.pooling = Pooling::Mean),
    ];
    for (form, head, loss, accuracy, change) in forms {
        let (method, figures, gradients) = mimco(&file, change);
        file.check(&format!("extra.{form}.loss"), &[figures[loss] as f32]);
        if !accuracy.is_empty() {
            file.check(&format!("extra.{form}.acc"), &[(figures[accuracy] / 100.0) as f32]);
        }
        let weight = method.parameters().find(&format!("{head}.0.weight")).unwrap();
        file.check(&format!("extra.{form}.grad.{head}.0.weight"), &gradients.to_host(weight));
    }
}

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = mimco_data::random::keyed(seed, mimco_data::random::Purpose::Probe, 0, 0);
    (0..n).map(|_| mimco_data::random::unit(&mut rng)).collect()
}

/// -log softmax of the positive, cosine similarities over τ, all in f64.
fn plain_info_nce(queries: &[Vec<f64>], keys: &[Vec<f64>], positive: impl Fn(usize) -> usize, temperature: f64) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let cosine = |a: &[f64], b: &[f64]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let row = |(i, q): (usize, &Vec<f64>)| {
        let logits: Vec<f64> = keys.iter().map(|k| cosine(q, k) / temperature).collect();
        logits.iter().map(|l| l.exp()).sum::<f64>().ln() - logits[positive(i)]
    };
    queries.iter().enumerate().map(row).sum::<f64>() / queries.len() as f64
}

#[test]
fn a_student_that_is_its_teacher_reaches_what_the_teachers_features_allow() {
    let shape = vit(16, 2, 2, Position::Sincos, IMAGENET);
    let mut teacher = backbone(&shape, |_| {});
    teacher.vit.initialize(&mut teacher.parameters, Initialization::Xavier, 3);
    let settings = MimcoSettings { student_init: StudentInit::Teacher, ..Default::default() };
    let mut method = student_of(teacher.clone(), &shape, settings.clone(), Precision::F32);
    for head in ["patch_head", "image_head"] {
        let weight = method.parameters().find(&format!("{head}.0.weight")).unwrap();
        let identity: Vec<f32> = (0..256).map(|i| if i / 16 == i % 16 { 1.0 } else { 0.0 }).collect();
        method.parameters_mut().update_on_host(weight, |values| values.copy_from_slice(&identity));
    }
    const BATCH: usize = 6;
    let images = Tensor::from_slice([BATCH, 3, 16, 16], &noise(BATCH * 768, 5));
    let everything = PatchMask { masked: vec![false; BATCH * 16].into(), predicted: vec![true; BATCH * 16].into() };
    let before = teacher.parameters.flat_to_host().into_owned();
    let mut gradients = method.parameters().gradients();
    let figures = method.losses(&images, &everything, &[0, 1, 2, 3, 4, 5], INFO, 1.0, &mut gradients).to_host();
    assert_eq!(method.teacher().parameters.flat_to_host()[..], before[..], "the teacher is frozen");

    let tokens = teacher.vit.forward(&mut Tape::inference(&teacher.parameters), &images, &ForwardOptions::default()).x.value;
    let rows: Vec<Vec<f64>> = tokens.to_host().chunks_exact(16).map(|row| row.iter().map(|&v| v as f64).collect()).collect();
    let factor = 2.0 * 0.2;
    let patch: f64 = (0..BATCH).map(|i| plain_info_nce(&rows[i * 17 + 1..(i + 1) * 17], &rows[i * 17 + 1..(i + 1) * 17], |p| p, 0.2)).sum();
    let classes: Vec<Vec<f64>> = (0..BATCH).map(|i| rows[i * 17].clone()).collect();
    let image = plain_info_nce(&classes, &classes, |i| i, 0.2);
    assert!((figures["train/loss_patch"] - factor * patch / BATCH as f64).abs() < 1e-5);
    assert!((figures["train/loss_image"] - factor * image).abs() < 1e-5);
    assert!((figures["health/teacher_alignment"] - 1.0).abs() < 1e-5);

    // Nothing masked and nothing predicted: no patch loss.
    let nothing = PatchMask::new(vec![false; BATCH * 16].into());
    for loss in [PatchLoss::ImageNegatives, PatchLoss::BatchNegatives, PatchLoss::L1] {
        let settings = MimcoSettings { patch_loss: loss, ..settings.clone() };
        let mut method = student_of(teacher.clone(), &shape, settings, Precision::F32);
        let figures = method.losses(&images, &nothing, &[0, 1, 2, 3, 4, 5], INFO, 1.0, &mut gradients).to_host();
        assert_eq!(figures["train/loss_patch"], 0.0, "{loss:?}");
        assert!(figures["train/loss"].is_finite());
    }
}

/// A teacher with registers and LayerScale and a student without, and the reverse: patches are compared
/// with patches, class tokens with class tokens.
#[test]
fn patches_meet_patches_for_any_prefix() {
    const BATCH: usize = 3;
    let plain = vit(16, 2, 2, Position::Learned, IMAGENET);
    let scaled = VitConfig { registers: 3, layer_scale: 0.5, ..vit(16, 2, 4, Position::Learned, HALVES) };
    let images = Tensor::from_slice([BATCH, 3, 16, 16], &noise(BATCH * 768, 5));
    for (student, theirs, pooling) in [
        (&plain, &scaled, Pooling::Class),
        (&scaled, &plain, Pooling::Class),
        (&plain, &scaled, Pooling::Mean),
        (&scaled, &plain, Pooling::Mean),
    ] {
        let mut teacher = backbone(theirs, |_| {});
        teacher.vit.initialize(&mut teacher.parameters, Initialization::Xavier, 3);
        let settings = MimcoSettings { patch_loss: PatchLoss::L1, pooling, scale_by_temperature: false, ..Default::default() };
        let mask = MaskGenerator::new(4, 1, 0.5);
        let temperature = settings.image_temperature as f64;
        let mut method = student_of(teacher.clone(), student, settings, Precision::F32);
        let masked: Arc<[bool]> = (0..BATCH as u64).flat_map(|i| mask.draw(1, 0, i)).collect();
        let mut gradients = method.parameters().gradients();
        let figures = method.losses(&images, &PatchMask::new(masked.clone()), &[0, 1, 2], INFO, 1.0, &mut gradients).to_host();

        let (vit, parameters) = method.backbone();
        let find = |name: &str| parameters.find(name).unwrap();
        let mask_token = Some(Masked { token: find("mask_token"), masked: masked.clone() });
        let seen = vit
            .forward(&mut Tape::inference(parameters), &images, &ForwardOptions { masked: mask_token, ..ForwardOptions::default() })
            .x
            .value;
        let whole = teacher.vit.forward(&mut Tape::inference(&teacher.parameters), &images, &ForwardOptions::default()).x.value;
        let token = |tokens: &Tensor, config: &VitConfig, image: usize, token: usize| -> Vec<f64> {
            let row = image * config.tokens() + token;
            tokens.to_host()[row * 16..][..16].iter().map(|&v| v as f64).collect()
        };
        let head = |name: &str, x: &[f64]| -> Vec<f64> {
            let weight = parameters.to_host(find(&format!("{name}.0.weight")));
            weight.chunks_exact(16).map(|w| w.iter().zip(x).map(|(&w, x)| w as f64 * x).sum()).collect()
        };
        let mut differences = Vec::new();
        for place in (0..BATCH * 16).filter(|&place| masked[place]) {
            let [ours, target] = [(&seen, student), (&whole, theirs)]
                .map(|(tokens, config)| token(tokens, config, place / 16, config.registers + 1 + place % 16));
            differences.extend(head("patch_head", &ours).iter().zip(&target).map(|(a, b)| (a - b).abs()));
        }
        let patch = differences.iter().sum::<f64>() / differences.len() as f64;
        assert!((figures["train/loss_patch"] - patch).abs() < 1e-5, "{} for {patch}", figures["train/loss_patch"]);

        let pooled = |tokens: &Tensor, config: &VitConfig, image: usize| match pooling {
            Pooling::Class => token(tokens, config, image, 0),
            Pooling::Mean => {
                let patches: Vec<Vec<f64>> = (0..16).map(|i| token(tokens, config, image, config.registers + 1 + i)).collect();
                (0..16).map(|column| patches.iter().map(|patch| patch[column]).sum::<f64>() / 16.0).collect()
            }
        };
        let queries: Vec<Vec<f64>> = (0..BATCH).map(|image| head("image_head", &pooled(&seen, student, image))).collect();
        let keys: Vec<Vec<f64>> = (0..BATCH).map(|image| pooled(&whole, theirs, image)).collect();
        let image = plain_info_nce(&queries, &keys, |i| i, temperature);
        assert!((figures["train/loss_image"] - image).abs() < 1e-4, "{} for {image}", figures["train/loss_image"]);
    }
}

#[test]
fn losses_begin_at_the_logarithm_of_the_candidates() {
    const BATCH: usize = 64;
    let (width, depth, heads) = Arch::Nano.sizes();
    let shape = VitConfig { heads, position: Position::Sincos, ..VitConfig::plain(width, depth, 4 * width, 4, 32) };
    let images = Tensor::from_slice([BATCH, 3, 32, 32], &noise(BATCH * 3072, 7));
    let sample_ids: Vec<u32> = (0..BATCH as u32).collect();
    let near = |loss: f64, candidates: usize| {
        let expected = (candidates as f64).ln();
        assert!((loss / expected - 1.0).abs() < 0.05, "{loss} for log({candidates}) = {expected}");
    };
    let mask = MaskGenerator::new(8, 2, 0.6);
    for (patch_loss, candidates) in [(PatchLoss::ImageNegatives, mask.masked()), (PatchLoss::BatchNegatives, BATCH * mask.masked())] {
        let mut teacher = backbone(&shape, |_| {});
        teacher.vit.initialize(&mut teacher.parameters, Initialization::Xavier, 11);
        let settings = MimcoSettings { patch_loss, ..Default::default() };
        let mut method = student_of(teacher, &shape, settings, Precision::F32);
        let masked: Arc<[bool]> = (0..BATCH as u64).flat_map(|i| mask.draw(1, 0, i)).collect();
        let mut gradients = method.parameters().gradients();
        let figures = method.losses(&images, &PatchMask::new(masked), &sample_ids, INFO, 1.0, &mut gradients).to_host();
        near(figures["train/loss_patch"] / 0.4, candidates);
        near(figures["train/loss_image"] / 0.4, BATCH);
    }
    let settings = MocoV3Settings { hidden: 256, ..Default::default() };
    let mut method = moco(&shape, &settings, Precision::F32);
    let other = Tensor::from_slice([BATCH, 3, 32, 32], &noise(BATCH * 3072, 8));
    let mut gradients = method.parameters().gradients();
    let figures = method.losses([&images, &other], INFO, 1.0, &mut gradients).to_host();
    near(figures["train/loss"] / 0.8, BATCH);
}

/// A step in bf16 has single precision's loss to 1 % and its gradient's direction.
#[test]
fn steps_in_bf16_are_near_single_precision() {
    const BATCH: usize = 16;
    let near = |name: &str, [half, single]: [(f64, Vec<f32>); 2]| {
        assert!((half.0 / single.0 - 1.0).abs() < 0.01 && half.0 != single.0, "{name}: {} for {}", half.0, single.0);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a * b) as f64).sum::<f64>();
        let cosine = dot(&half.1, &single.1) / (dot(&half.1, &half.1) * dot(&single.1, &single.1)).sqrt();
        assert!(cosine > 0.98, "{name}: cosine {cosine}");
    };
    let shape = vit(16, 2, 2, Position::Sincos, IMAGENET);
    let views = [5, 6].map(|seed| Tensor::from_slice([BATCH, 3, 16, 16], &noise(BATCH * 768, seed)));
    let mimco = [Precision::Bf16, Precision::F32].map(|precision| {
        let mut teacher = backbone(&shape, |_| {});
        teacher.vit.initialize(&mut teacher.parameters, Initialization::Xavier, 3);
        let mask = MaskGenerator::new(4, 1, 0.5);
        let mut method = student_of(teacher, &shape, MimcoSettings::default(), precision);
        let masked: Arc<[bool]> = (0..BATCH as u64).flat_map(|i| mask.draw(1, 0, i)).collect();
        let sample_ids: Vec<u32> = (0..BATCH as u32).collect();
        let mut gradients = method.parameters().gradients();
        let figures = method.losses(&views[0], &PatchMask::new(masked), &sample_ids, INFO, 1.0, &mut gradients).to_host();
        (figures["train/loss"], gradients.flat_to_host().into_owned())
    });
    near("mimco", mimco);
    let moco = [Precision::Bf16, Precision::F32].map(|precision| {
        let settings = MocoV3Settings { hidden: 64, out: 16, ..Default::default() };
        let mut method = moco(&shape, &settings, precision);
        let mut gradients = method.parameters().gradients();
        let figures = method.losses([&views[0], &views[1]], INFO, 1.0, &mut gradients).to_host();
        (figures["train/loss"], gradients.flat_to_host().into_owned())
    });
    near("moco_v3", moco);
}

/// MimCo with a student of these sizes, at its first step.
fn student_of(teacher: Backbone, student: &VitConfig, settings: MimcoSettings, precision: Precision) -> Mimco {
    let spec = MimcoSpec { mask: MaskSettings::default(), mimco: settings };
    Mimco::new(&spec, BuildContext { teacher: Some(teacher), ..context(student, precision) }).unwrap()
}

/// MoCo v3 with an encoder of these sizes, at its first step.
fn moco(encoder: &VitConfig, settings: &MocoV3Settings, precision: Precision) -> MocoV3 {
    MocoV3::new(&MocoV3Spec { moco_v3: settings.clone() }, context(encoder, precision))
}

fn context(model: &VitConfig, precision: Precision) -> BuildContext {
    BuildContext { model: model.clone(), seed: 0, precision, drop_path: 0.0, recompute: false, teacher: None, images: 100 }
}
