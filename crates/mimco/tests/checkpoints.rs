//! Reading of foreign checkpoints (fixtures/checkpoints, made by fixtures/make_checkpoints.py with
//! PyTorch, timm and transformers). The tokens of every layout are PyTorch's, undetermined
//! properties are errors that name a setting, and unsupported models are refused by name.

use mimco::interop::backbone::{self, Loaded};
use mimco::interop::convert::{ExportTarget, Request, convert};
use mimco::interop::inspect::inspect;
use mimco::interop::read::weights::Weights;
use mimco::interop::write::safetensors::write_f32;
use mimco::models::backbone::{Backbone, FeatureKind};
use mimco::models::overrides::BackboneOverrides;
use mimco::models::vit::{ForwardOptions, VitConfig};
use mimco_engine::{Tape, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints")
}

/// Returns the manifest's entries: those that load, and those that are refused.
fn manifest() -> [Vec<Value>; 2] {
    let text = std::fs::read_to_string(fixtures().join("manifest.json")).unwrap();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    let (refused, loads) = all.into_iter().partition(|entry| entry["refuse"].is_string());
    [loads, refused]
}

fn path(entry: &Value) -> PathBuf {
    fixtures().join(entry["file"].as_str().unwrap())
}

/// Returns the settings that an entry requires.
fn overrides(entry: &Value) -> BackboneOverrides {
    let settings: Vec<String> = entry["settings"].as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_string()).collect();
    BackboneOverrides::from_settings(&settings).unwrap()
}

fn expected() -> Weights {
    Weights::open(&fixtures().join("expected.safetensors")).unwrap()
}

fn tensor(weights: &Weights, name: &str) -> Tensor {
    Tensor::from_slice(&weights.tensors[name].shape[..], &weights.read(name).unwrap())
}

/// Returns the relative difference between a backbone's tokens of an entry's images and PyTorch's.
fn difference(loaded: &Loaded, entry: &Value) -> f64 {
    let expected = expected();
    let images = tensor(&expected, entry["images"].as_str().unwrap());
    let Loaded { backbone, .. } = loaded;
    let tokens = backbone.vit.forward(&mut Tape::inference(&backbone.parameters), &images, &ForwardOptions::default()).x.value;
    let theirs = expected.read(entry["tokens"].as_str().unwrap()).unwrap();
    assert_eq!(tokens.to_host().len(), theirs.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut tokens.to_host().iter().zip(&theirs).map(|(a, b)| (a - b) as f64));
    difference / norm(&mut theirs.iter().map(|v| *v as f64))
}

#[test]
fn the_tokens_of_every_layout_are_pytorchs() {
    let [loads, _] = manifest();
    assert!(loads.len() >= 17);
    for entry in &loads {
        let loaded = backbone::load(&path(entry), &overrides(entry)).unwrap();
        let off = difference(&loaded, entry);
        assert!(off < 1e-5, "{}: {off:e}", entry["file"]);
        let mean = entry["mean"][0].as_f64().unwrap() as f32;
        assert_eq!((loaded.info.model.heads, loaded.info.model.mean[0]), (3, mean), "{}", entry["file"]);
    }
}

#[test]
fn undetermined_heads_are_an_error_that_names_the_setting() {
    let [loads, _] = manifest();
    for entry in loads.iter().filter(|entry| entry["settings"][0] == "model.heads=3") {
        let error = backbone::load(&path(entry), &BackboneOverrides::default()).err().unwrap();
        assert!(error.is_misuse() && error.to_string().contains("set model.heads"), "{}: {error}", entry["file"]);
        let inspection = inspect(&path(entry), &BackboneOverrides::default()).unwrap();
        assert!(inspection.heads.is_none() && inspection.unresolved[0].starts_with("model.heads"), "{}", entry["file"]);
    }
}

#[test]
fn unsupported_models_are_refused_by_name() {
    let [_, refused] = manifest();
    let words = [
        ("swin.pth", "Swin"),
        ("simmim_vit.pth", "relative position bias"),
        ("linear_probe.pth", "only a linear classifier"),
        ("swiglu.pth", "SwiGLU"),
        ("dist_deit.pth", "distilled"),
        ("mae_finetuned.pth", "fc_norm"),
        ("moco_v3_conv.pth.tar", "convolutions"),
    ];
    assert_eq!(refused.len(), words.len());
    for (file, word) in words {
        let error = backbone::load(&fixtures().join(file), &BackboneOverrides { heads: Some(3), ..Default::default() }).err().unwrap();
        assert!(!error.is_misuse() && error.to_string().contains(word), "{file}: {error}");
    }
}

#[test]
fn of_several_encoders_the_official_one_is_read_or_the_one_that_is_named() {
    let tokens = |file: &str, encoder: Option<&str>| {
        let overrides = BackboneOverrides { heads: Some(3), encoder: encoder.map(str::to_string), ..Default::default() };
        backbone::load(&fixtures().join(file), &overrides).map(|loaded| loaded.backbone.parameters.flat_to_host().into_owned())
    };
    for (file, official, other) in
        [("moco_v3.pth.tar", "base_encoder", "momentum_encoder"), ("dino.pth", "teacher", "student"), ("moby.pth", "encoder.", "encoder_k")]
    {
        let chosen = tokens(file, None).unwrap();
        assert!(chosen == tokens(file, Some(official)).unwrap() && chosen != tokens(file, Some(other)).unwrap(), "{file}");
        let error = tokens(file, Some("absent")).err().unwrap().to_string();
        assert!(error.contains("absent") && error.contains(other), "{error}");
    }
}

/// Every target, read back, has the same tokens.
#[test]
fn exports_read_back_as_the_backbone_they_contain() {
    let folder = tempfile::tempdir().unwrap();
    let [loads, _] = manifest();
    for (i, entry) in loads.iter().enumerate() {
        let overrides = overrides(entry);
        for (target, name) in [
            (ExportTarget::Native, "native.safetensors"),
            (ExportTarget::Timm, "timm"),
            (ExportTarget::HuggingFace, "hf"),
            (ExportTarget::Onnx, "a.onnx"),
        ] {
            let output = folder.path().join(format!("{i}{name}"));
            let request = Request { input: &path(entry), output: &output, target, overrides: &overrides, batch: None, overwrite: false };
            let (info, files) = convert(&request).unwrap();
            assert!(files.iter().all(|file| file.is_file()), "{files:?}");
            assert!(convert(&request).err().unwrap().to_string().contains("--overwrite"));
            if target != ExportTarget::Onnx {
                let again = backbone::load(&output, &BackboneOverrides::default()).unwrap();
                assert_eq!(again.info, info);
                assert!(target != ExportTarget::Timm || info.model.norm_eps == 1e-6);
                let off = difference(&again, entry);
                assert!(off < 1e-5, "{} to {target:?}: {off:e}", entry["file"]);
            }
        }
    }
}

/// The fixture contains the result of timm's `resample_abs_pos_embed`.
#[test]
fn positions_are_resized_as_timm_does() {
    let expected = expected();
    for (size, name) in [(24, "timm.positions24"), (8, "timm.positions8")] {
        let overrides = BackboneOverrides { heads: Some(3), image_size: Some(size), ..Default::default() };
        let loaded = backbone::load(&fixtures().join("timm.safetensors"), &overrides).unwrap();
        assert_eq!(loaded.info.model.image, size);
        let parameters = &loaded.backbone.parameters;
        let found = parameters.to_host(parameters.find("pos_embed").unwrap());
        let resized = expected.read(name).unwrap();
        assert_eq!(found.len(), resized.len());
        assert!(found.iter().zip(&resized).all(|(a, b)| (a - b).abs() < 2e-6), "{name}");
    }
    let odd = BackboneOverrides { heads: Some(3), image_size: Some(17), ..Default::default() };
    assert!(backbone::load(&fixtures().join("timm.safetensors"), &odd).err().unwrap().to_string().contains("a multiple of the patch size"));
}

/// The same tensors have 12 heads under MoCo v3's names and 6 under timm's, so other features.
#[test]
fn a_vit_s_has_the_heads_of_the_project_that_trained_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = VitConfig::plain(384, 1, 64, 16, 32);
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = config
        .parameters()
        .into_iter()
        .map(|(name, shape)| {
            let numbers = (0..shape.iter().product::<usize>()).map(|i| ((i * 31 + name.len()) % 97) as f32 / 97.0 - 0.5).collect();
            (name, shape, numbers)
        })
        .collect();
    let load = |prefix: &str| {
        let path = folder.path().join("a.safetensors");
        let named: Vec<_> = tensors.iter().map(|(name, shape, numbers)| (format!("{prefix}{name}"), shape.clone(), &numbers[..])).collect();
        write_f32(&path, &named, &BTreeMap::new()).unwrap();
        backbone::load(&path, &BackboneOverrides::default())
    };
    let images = Tensor::from_slice([1, 3, 32, 32], &(0..3072).map(|i| (i * 7 % 11) as f32 / 11.0).collect::<Vec<_>>());
    let class = |loaded: &Loaded| {
        let Backbone { vit, parameters } = &loaded.backbone;
        vit.forward(&mut Tape::inference(parameters), &images, &ForwardOptions::default()).x.value.to_host()[..384].to_vec()
    };
    let [moco, timm] = ["module.base_encoder.", ""].map(|prefix| load(prefix).unwrap());
    assert_eq!((moco.info.model.heads, timm.info.model.heads), (12, 6));
    assert_eq!((moco.info.method.as_str(), moco.info.license.as_deref()), ("MoCo v3", Some("CC-BY-NC-4.0")));
    assert_ne!(class(&moco), class(&timm));
    // An encoder of an unknown project.
    assert!(load("model.backbone.").err().unwrap().to_string().contains("set model.heads"));
}

type Named = (String, Vec<usize>, Vec<f32>);

/// Writes a small ViT's tensors after `change`. All elements of a tensor are 0.5 plus a hundredth
/// of its name's length.
fn written(path: &Path, config: &VitConfig, change: impl FnOnce(&mut Vec<Named>)) {
    let numbers = |(name, shape): (String, Vec<usize>)| {
        let numbers = vec![0.5 + name.len() as f32 / 100.0; shape.iter().product()];
        (name, shape, numbers)
    };
    let mut tensors: Vec<Named> = config.parameters().into_iter().map(numbers).collect();
    change(&mut tensors);
    let borrowed: Vec<_> = tensors.iter().map(|(name, shape, numbers)| (name.clone(), shape.clone(), &numbers[..])).collect();
    write_f32(path, &borrowed, &BTreeMap::new()).unwrap();
}

fn refusal(path: &Path, overrides: &BackboneOverrides) -> String {
    let error = backbone::load(path, overrides).err().unwrap().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// A file may contain neither fewer nor more parameters than the model.
#[test]
fn tensors_and_model_agree_or_nothing_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let small = VitConfig { layer_scale: 1.0, ..VitConfig::plain(64, 2, 96, 4, 8) };
    let defaults = BackboneOverrides::default();
    for (lacking, word) in [
        ("blocks.0.ls1.gamma", "blocks.0.ls1.gamma"),
        ("blocks.1.ls2.gamma", "blocks.1.ls2.gamma"),
        ("blocks.1.norm1.weight", "not a parameter"),
    ] {
        written(&path, &small, |tensors| tensors.retain(|(name, ..)| name != lacking));
        assert!(refusal(&path, &defaults).contains(word), "{lacking}");
        let inspection = inspect(&path, &defaults).unwrap();
        assert!(!inspection.shape_errors.is_empty() && inspection.to_text().contains("error"), "{lacking}");
    }
    written(&path, &small, |tensors| tensors.push(("head.property_weight".into(), vec![1], vec![1.0])));
    backbone::load(&path, &defaults).unwrap();
    written(&path, &small, |tensors| tensors.push(("rope_embed.periods".into(), vec![1], vec![1.0])));
    assert!(refusal(&path, &defaults).contains("rotary"));
    // A hidden layer with gates, packed as in timm.
    written(&path, &small, |tensors| {
        for (_, shape, numbers) in tensors.iter_mut().filter(|(name, ..)| name.ends_with("fc2.weight")) {
            (shape[1], *numbers) = (48, vec![0.5; 64 * 48]);
        }
    });
    assert!(refusal(&path, &defaults).contains("SwiGLU"));
    // 25 positions: a class token and 4 x 4 patches with 8 registers, or 5 x 5 patches.
    let registers = VitConfig { registers: 8, ..VitConfig::plain(64, 1, 96, 4, 16) };
    written(&path, &registers, |tensors| {
        let (_, shape, numbers) = tensors.iter_mut().find(|(name, ..)| name == "pos_embed").unwrap();
        (shape[1], *numbers) = (25, vec![0.5; 25 * 64]);
    });
    assert!(refusal(&path, &defaults).contains("model.image_size"));
    let settled = backbone::load(&path, &BackboneOverrides { image_size: Some(16), ..Default::default() }).unwrap();
    assert_eq!(settled.info.model.image, 16);
    // An export determines which it is: 10 rows are a class token and 3 x 3 patches, or all of one
    // patch, 8 registers and a class token.
    let three = VitConfig { registers: 8, ..VitConfig::plain(64, 1, 128, 4, 12) };
    written(&path, &three, |_| {});
    assert!(refusal(&path, &defaults).contains("model.image_size"));
    let twelve = BackboneOverrides { image_size: Some(12), ..Default::default() };
    for (target, name) in [(ExportTarget::Native, "n.safetensors"), (ExportTarget::Timm, "t"), (ExportTarget::HuggingFace, "h")] {
        let output = folder.path().join(name);
        convert(&Request { input: &path, output: &output, target, overrides: &twelve, batch: None, overwrite: false }).unwrap();
        assert_eq!(backbone::load(&output, &defaults).unwrap().info.model.image, 12, "{name}");
    }
}

/// Configurations next to a file are used if they are the file's. Nothing is allocated by a setting
/// alone.
#[test]
fn configurations_next_to_a_file_are_its_own_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let defaults = BackboneOverrides::default();
    written(&path, &VitConfig::plain(64, 2, 96, 4, 8), |_| {});
    let config = folder.path().join("config.json");
    let of = |config: &str| format!(r#"{{"num_features":64,"pretrained_cfg":{{"mean":[0.1,0.2,0.3],"std":[0.5,0.5,0.5]}},{config}}}"#);
    std::fs::write(&config, of(r#""model_args":{"num_heads":4},"global_pool":"avg""#)).unwrap();
    let loaded = backbone::load(&path, &defaults).unwrap();
    assert_eq!((loaded.info.model.heads, loaded.info.model.mean, loaded.info.pooling), (4, [0.1, 0.2, 0.3], FeatureKind::Mean));
    for (wrong, word) in [
        (r#""model_args":{"embed_dim":128}"#, "embed_dim 128"),
        (r#""model_args":{"act_layer":"quick_gelu"}"#, "quick_gelu"),
        (r#""model_args":{"img_size":[4,16]}"#, "not square"),
    ] {
        std::fs::write(&config, of(wrong)).unwrap();
        assert!(refusal(&path, &defaults).contains(word), "{wrong}");
    }
    std::fs::remove_file(&config).unwrap();
    for size in [0, 160_000, 10] {
        let error = refusal(&path, &BackboneOverrides { image_size: Some(size), ..Default::default() });
        assert!(error.contains(&format!("model.image_size={size}")), "{error}");
    }
    // A folder is not converted into itself under any name.
    let request = Request {
        input: folder.path(),
        output: folder.path(),
        target: ExportTarget::Native,
        overrides: &defaults,
        batch: None,
        overwrite: true,
    };
    assert!(convert(&request).err().unwrap().to_string().contains("another place"));
}

/// timm's norms have an epsilon of 1e-6. Models with another have their activations scaled, so that
/// their norms stay the same.
#[test]
fn another_epsilon_of_the_norms_is_compensated_for_timm() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("preprocessor_config.json"), r#"{"image_mean":[0.5,0.5,0.5],"image_std":[0.5,0.5,0.5]}"#).unwrap();
    for layer_scale in [0.0, 1.0] {
        let model = VitConfig { layer_scale, ..VitConfig::plain(24, 2, 48, 4, 16) };
        let native = folder.path().join("a.safetensors");
        written(&native, &model, |tensors| {
            for (name, _, numbers) in tensors.iter_mut().filter(|(name, ..)| !name.ends_with("norm.weight")) {
                let small = name.len() as f32;
                numbers.iter_mut().enumerate().for_each(|(i, n)| *n = ((i * 29) as f32 + small).sin() * 2e-3);
            }
        });
        // Through Hugging Face's format, whose configuration contains the epsilon.
        let hf = folder.path().join(format!("hf{layer_scale}"));
        let overrides = BackboneOverrides { heads: Some(3), ..Default::default() };
        let to = |input: &Path, output: &Path, target, overrides: &BackboneOverrides| {
            convert(&Request { input, output, target, overrides, batch: None, overwrite: false }).unwrap().0
        };
        to(&native, &hf, ExportTarget::HuggingFace, &overrides);
        let weights = Weights::open(&hf.join("model.safetensors")).unwrap();
        let tensors: Vec<Named> =
            weights.tensors.iter().map(|(name, array)| (name.clone(), array.shape.clone(), weights.read(name).unwrap())).collect();
        let borrowed: Vec<_> = tensors.iter().map(|(name, shape, numbers)| (name.clone(), shape.clone(), &numbers[..])).collect();
        write_f32(&hf.join("model.safetensors"), &borrowed, &BTreeMap::new()).unwrap(); // without metadata
        for eps in ["1e-12", "1e-4"] {
            let config = std::fs::read_to_string(hf.join("config.json")).unwrap();
            let config: serde_json::Map<String, Value> = serde_json::from_str(&config).unwrap();
            let changed = config
                .into_iter()
                .map(|(key, value)| if key == "layer_norm_eps" { (key, eps.parse::<f64>().unwrap().into()) } else { (key, value) });
            std::fs::write(hf.join("config.json"), Value::Object(changed.collect()).to_string()).unwrap();
            let statistics = BackboneOverrides { mean: Some([0.5; 3]), std: Some([0.5; 3]), ..Default::default() };
            let timm = folder.path().join(format!("timm{layer_scale}{eps}"));
            assert_eq!(to(&hf, &timm, ExportTarget::Timm, &statistics).model.norm_eps, 1e-6);
            let tokens = |path: &Path| {
                let Loaded { backbone, .. } = backbone::load(path, &statistics).unwrap();
                let images = tensor(&expected(), "images");
                backbone
                    .vit
                    .forward(&mut Tape::inference(&backbone.parameters), &images, &ForwardOptions::default())
                    .x
                    .value
                    .to_host()
                    .to_vec()
            };
            let (exported, original) = (tokens(&timm), tokens(&hf));
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| (v as f64).powi(2)).sum::<f64>().sqrt();
            let off = norm(&mut exported.iter().zip(&original).map(|(a, b)| a - b)) / norm(&mut original.iter().copied());
            assert!(off < 2e-5, "layer scale {layer_scale}, epsilon {eps}: {off:e}");
        }
    }
}

#[test]
fn the_text_of_an_inspection() {
    insta::assert_snapshot!(inspect(&fixtures().join("mmpretrain.pth"), &BackboneOverrides::default()).unwrap().to_text());
}

#[test]
fn the_model_card_of_an_export() {
    let folder = tempfile::tempdir().unwrap();
    let overrides = BackboneOverrides { heads: Some(3), ..Default::default() };
    let (input, output) = (fixtures().join("dinov2_reg.pth"), folder.path().join("timm"));
    convert(&Request { input: &input, output: &output, target: ExportTarget::Timm, overrides: &overrides, batch: None, overwrite: false })
        .unwrap();
    insta::assert_snapshot!(std::fs::read_to_string(output.join("README.md")).unwrap());
}
