//! What stands beside a checkpoint: Hugging Face's `config.json` and `preprocessor_config.json`, timm's `config.json`.

use super::sources::Source;
use crate::Error;
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
}

impl Beside {
    /// What the files beside `path` say of it.
    ///
    /// # Errors
    /// A file that is there and cannot be read, or whose model cannot be run.
    pub fn read(path: &Path, source: Source) -> Result<Beside, Error> {
        match source {
            Source::HuggingFaceVit | Source::HuggingFaceDinoV2 => hugging_faces(path),
            Source::Timm => timms(path),
            _ => Ok(Beside::default()),
        }
    }
}

fn hugging_faces(path: &Path) -> Result<Beside, Error> {
    let mut beside = Beside::default();
    if let Some(config) = json(&path.with_file_name("config.json"))? {
        beside.heads = number(&config["num_attention_heads"]);
        beside.norm_eps = config["layer_norm_eps"].as_f64().map(|eps| eps as f32);
        if let Some(activation) = config["hidden_act"].as_str().filter(|name| *name != "gelu") {
            let shown = activation.escape_debug();
            return Err(Error::file(
                path,
                format!("has the activation {shown} by its config.json; this program runs the exact GELU alone"),
            ));
        }
    }
    if let Some(processor) = json(&path.with_file_name("preprocessor_config.json"))? {
        beside.statistics = three(&processor["image_mean"]).zip(three(&processor["image_std"]));
    }
    Ok(beside)
}

/// timm's, as its hub has it: `pretrained_cfg` and, where a model differs from its name, `model_args`.
fn timms(path: &Path) -> Result<Beside, Error> {
    let Some(config) = json(&path.with_file_name("config.json"))?.filter(|config| config["pretrained_cfg"].is_object()) else {
        return Ok(Beside::default());
    };
    let trained = &config["pretrained_cfg"];
    Ok(Beside {
        heads: number(&config["model_args"]["num_heads"]),
        statistics: three(&trained["mean"]).zip(three(&trained["std"])),
        norm_eps: None,
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
