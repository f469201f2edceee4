//! Configurations next to a checkpoint: Hugging Face's `config.json` and
//! `preprocessor_config.json`, timm's `config.json`.

use super::escape::printable;
use super::projects::Project;
use crate::Error;
use crate::models::backbone::FeatureKind;
use crate::models::vit::VitConfig;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// Largest configuration that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Properties of a model in the configurations next to its file; none by default.
#[derive(Default)]
pub struct Sidecar {
    /// Attention heads.
    pub heads: Option<usize>,
    /// Mean and standard deviation of the channels.
    pub statistics: Option<([f32; 3], [f32; 3])>,
    /// Epsilon of the norms.
    pub norm_eps: Option<f32>,
    /// Feature that the pre-training trained.
    pub pooling: Option<FeatureKind>,
}

impl Sidecar {
    /// Reads the configurations next to `path`. `tensors` are the sizes of the model in it.
    ///
    /// # Errors
    /// A configuration that cannot be read, that belongs to another model, or whose model is not
    /// supported.
    pub fn read(path: &Path, project: Project, tensors: &VitConfig) -> Result<Sidecar, Error> {
        match project {
            Project::HuggingFaceVit | Project::HuggingFaceDinoV2 => read_hugging_face(path, tensors),
            Project::Timm => read_timm(path, tensors),
            _ => Ok(Sidecar::default()),
        }
    }
}

/// Refuses a configuration with other sizes than the tensors.
fn check_sizes(path: &Path, config: &Value, sizes: &[(&str, usize)]) -> Result<(), Error> {
    match sizes.iter().find(|(key, size)| number(&config[*key]).is_some_and(|configured| configured != *size)) {
        None => Ok(()),
        Some((key, size)) => {
            let what = format!(
                "its config.json has {key} {}, its tensors {size}; replace it by the model's own, or move it away and set model.heads",
                config[*key]
            );
            Err(Error::file(path, what))
        }
    }
}

/// Refuses a configuration in which `key` has a value that is not supported.
fn check_value(path: &Path, config: &Value, key: &str, supported: &[&str]) -> Result<(), Error> {
    match config[key].as_str().filter(|value| !supported.contains(value)) {
        None => Ok(()),
        Some(value) => {
            let what = format!("its config.json has {key} {}; this program supports only {}", printable(value), supported.join(" and "));
            Err(Error::file(path, what))
        }
    }
}

fn read_hugging_face(path: &Path, tensors: &VitConfig) -> Result<Sidecar, Error> {
    let mut sidecar = Sidecar::default();
    if let Some(config) = read_json(&path.with_file_name("config.json"))? {
        check_sizes(path, &config, &[("hidden_size", tensors.width), ("num_hidden_layers", tensors.depth), ("patch_size", tensors.patch)])?;
        check_value(path, &config, "hidden_act", &["gelu"])?;
        sidecar.heads = number(&config["num_attention_heads"]);
        sidecar.norm_eps = config["layer_norm_eps"].as_f64().map(|eps| eps as f32);
    }
    if let Some(processor) = read_json(&path.with_file_name("preprocessor_config.json"))? {
        if processor["do_rescale"] == false {
            let what = "takes pixels of 0 to 255 (do_rescale in its preprocessor_config.json); this program supplies 0 to 1";
            return Err(Error::file(path, what));
        }
        sidecar.statistics = match processor["do_normalize"] == false {
            true => Some(([0.0; 3], [1.0; 3])),
            false => three(&processor["image_mean"]).zip(three(&processor["image_std"])),
        };
    }
    Ok(sidecar)
}

/// Reads the `config.json` of timm's hub: `pretrained_cfg` and, if a model differs from its name,
/// `model_args`.
fn read_timm(path: &Path, tensors: &VitConfig) -> Result<Sidecar, Error> {
    let Some(config) = read_json(&path.with_file_name("config.json"))?.filter(|config| config["pretrained_cfg"].is_object()) else {
        return Ok(Sidecar::default());
    };
    let (pretrained, arguments) = (&config["pretrained_cfg"], &config["model_args"]);
    check_sizes(path, &config, &[("num_features", tensors.width)])?;
    check_sizes(path, arguments, &[("embed_dim", tensors.width), ("depth", tensors.depth), ("patch_size", tensors.patch)])?;
    check_value(path, arguments, "act_layer", &["gelu"])?;
    check_value(path, arguments, "norm_layer", &["layernorm", "layer_norm"])?;
    let sides = |value: &Value| value.as_array().map(|sides| sides.iter().rev().take(2).map(number).collect::<Vec<_>>());
    if [sides(&arguments["img_size"]), sides(&pretrained["input_size"])].into_iter().flatten().any(|sides| sides.first() != sides.last()) {
        return Err(Error::file(path, "takes images that are not square (its config.json); this program supports square images"));
    }
    let pooling = |config: &Value| match config["global_pool"].as_str() {
        Some("token") => Some(FeatureKind::Class),
        Some("avg") => Some(FeatureKind::Mean),
        _ => None,
    };
    Ok(Sidecar {
        heads: number(&arguments["num_heads"]),
        statistics: three(&pretrained["mean"]).zip(three(&pretrained["std"])),
        norm_eps: None,
        pooling: pooling(arguments).or(pooling(&config)),
    })
}

fn read_json(path: &Path) -> Result<Option<Value>, Error> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::file(path, format!("cannot be read: {e}"))),
    };
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
    let value = serde_json::from_slice(&text).map_err(|e| {
        Error::file(path, format!("is not JSON ({e}); repair it, or remove it and set model.heads, data.mean and data.std"))
    })?;
    Ok(Some(value))
}

fn number(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| n.try_into().ok())
}

fn three(value: &Value) -> Option<[f32; 3]> {
    let numbers: Option<Vec<f32>> = value.as_array()?.iter().map(|v| v.as_f64().map(|v| v as f32)).collect();
    numbers?.try_into().ok()
}
