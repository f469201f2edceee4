//! What stands beside a checkpoint: Hugging Face's `config.json` and `preprocessor_config.json`, timm's `config.json`.

use super::sources::Source;
use crate::Error;
use crate::evaluation::features::FeatureKind;
use crate::models::vit::VitConfig;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// Bytes of such a file that are read at most.
const LARGEST: u64 = 1 << 20;

/// What such files say; nothing by default.
#[derive(Default)]
pub struct Beside {
    /// Attention heads.
    pub heads: Option<usize>,
    /// Mean and deviation of the channels.
    pub statistics: Option<([f32; 3], [f32; 3])>,
    /// Epsilon of the norms.
    pub norm_eps: Option<f32>,
    /// Pooling of the feature that was trained.
    pub pooling: Option<FeatureKind>,
}

impl Beside {
    /// What the files beside `path` say of its model, whose sizes are `found`.
    ///
    /// # Errors
    /// A file that is there and cannot be read, that is another model's, or whose model cannot be run.
    pub fn read(path: &Path, source: Source, found: &VitConfig) -> Result<Beside, Error> {
        match source {
            Source::HuggingFaceVit | Source::HuggingFaceDinoV2 => hugging_faces(path, found),
            Source::Timm => timms(path, found),
            _ => Ok(Beside::default()),
        }
    }
}

/// Refuses a configuration that gives another number than the tensors do.
fn agree(path: &Path, config: &Value, sizes: &[(&str, usize)]) -> Result<(), Error> {
    match sizes.iter().find(|(key, size)| number(&config[*key]).is_some_and(|told| told != *size)) {
        None => Ok(()),
        Some((key, size)) => {
            let what = format!(
                "its config.json has {key} {}, its tensors {size}; put the model's own beside it, or move it away and set model.heads",
                config[*key]
            );
            Err(Error::file(path, what))
        }
    }
}

/// Refuses what stands in a configuration and is not among the values that run here.
fn only(path: &Path, config: &Value, key: &str, known: &[&str]) -> Result<(), Error> {
    match config[key].as_str().filter(|told| !known.contains(told)) {
        None => Ok(()),
        Some(told) => {
            let what = format!("has {key} {} by its config.json; this program runs {} alone", told.escape_debug(), known.join(" or "));
            Err(Error::file(path, what))
        }
    }
}

fn hugging_faces(path: &Path, found: &VitConfig) -> Result<Beside, Error> {
    let mut beside = Beside::default();
    if let Some(config) = json(&path.with_file_name("config.json"))? {
        agree(path, &config, &[("hidden_size", found.width), ("num_hidden_layers", found.depth), ("patch_size", found.patch)])?;
        only(path, &config, "hidden_act", &["gelu"])?;
        beside.heads = number(&config["num_attention_heads"]);
        beside.norm_eps = config["layer_norm_eps"].as_f64().map(|eps| eps as f32);
    }
    if let Some(processor) = json(&path.with_file_name("preprocessor_config.json"))? {
        if processor["do_rescale"] == false {
            let what = "takes pixels of 0 to 255 by its preprocessor_config.json (do_rescale); this program gives it 0..1";
            return Err(Error::file(path, what));
        }
        beside.statistics = match processor["do_normalize"] == false {
            true => Some(([0.0; 3], [1.0; 3])),
            false => three(&processor["image_mean"]).zip(three(&processor["image_std"])),
        };
    }
    Ok(beside)
}

/// timm's, as its hub has it: `pretrained_cfg` and, where a model differs from its name, `model_args`.
fn timms(path: &Path, found: &VitConfig) -> Result<Beside, Error> {
    let Some(config) = json(&path.with_file_name("config.json"))?.filter(|config| config["pretrained_cfg"].is_object()) else {
        return Ok(Beside::default());
    };
    let (trained, arguments) = (&config["pretrained_cfg"], &config["model_args"]);
    agree(path, &config, &[("num_features", found.width)])?;
    agree(path, arguments, &[("embed_dim", found.width), ("depth", found.depth), ("patch_size", found.patch)])?;
    only(path, arguments, "act_layer", &["gelu"])?;
    only(path, arguments, "norm_layer", &["layernorm", "layer_norm"])?;
    let sides = |value: &Value| value.as_array().map(|sides| sides.iter().rev().take(2).map(number).collect::<Vec<_>>());
    if [sides(&arguments["img_size"]), sides(&trained["input_size"])].into_iter().flatten().any(|sides| sides.first() != sides.last()) {
        return Err(Error::file(path, "takes images that are not square by its config.json; this program takes square ones"));
    }
    let pooling = |config: &Value| match config["global_pool"].as_str() {
        Some("token") => Some(FeatureKind::Class),
        Some("avg") => Some(FeatureKind::Mean),
        _ => None,
    };
    Ok(Beside {
        heads: number(&arguments["num_heads"]),
        statistics: three(&trained["mean"]).zip(three(&trained["std"])),
        norm_eps: None,
        pooling: pooling(arguments).or(pooling(&config)),
    })
}

fn json(path: &Path) -> Result<Option<Value>, Error> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::file(path, format!("cannot be read: {e}"))),
    };
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
    let value = serde_json::from_slice(&text).map_err(|e| {
        Error::file(path, format!("is not JSON ({e}); put right or remove it, and set model.heads and data.mean, data.std"))
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
