//! Settings that take precedence over what a checkpoint contains.

use crate::Error;
use serde::{Deserialize, Serialize};

/// Settings that override or complete what a checkpoint contains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneOverrides {
    /// Attention heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Mean of the channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of the channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f32; 3]>,
    /// Side of the images in pixels; positions are resized if the file has another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// Encoder to read from a file with several: a part of the prefix of its names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
    /// Whether the backbone is a teacher, whose settings begin with `teacher.` in messages.
    #[serde(skip)]
    pub of_teacher: bool,
}

impl BackboneOverrides {
    /// Returns the prefix of the names of these settings.
    pub(crate) fn scope(&self) -> &'static str {
        if self.of_teacher { "teacher." } else { "" }
    }

    /// Fills the settings that are absent here with those of `others`.
    pub fn or(self, others: BackboneOverrides) -> BackboneOverrides {
        BackboneOverrides {
            heads: self.heads.or(others.heads),
            mean: self.mean.or(others.mean),
            std: self.std.or(others.std),
            image_size: self.image_size.or(others.image_size),
            encoder: self.encoder.or(others.encoder),
            of_teacher: self.of_teacher,
        }
    }

    /// Parses `model.heads=N`, `model.image_size=N`, `model.encoder=NAME`, `data.mean=[r, g, b]`
    /// and `data.std=[r, g, b]`.
    ///
    /// # Errors
    /// An unknown key, or a value of the wrong type.
    pub fn from_settings(settings: &[String]) -> Result<BackboneOverrides, Error> {
        let mut overrides = BackboneOverrides::default();
        for setting in settings {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            let value = value.trim();
            let wrong = |what: &str| Error::Setting(format!("{setting}: {what}"));
            let three = || {
                let numbers: Result<Vec<f32>, _> = value.trim_matches(['[', ']']).split(',').map(|v| v.trim().parse()).collect();
                let numbers = numbers.ok().and_then(|v| <[f32; 3]>::try_from(v).ok()).filter(|v| v.iter().all(|v| v.is_finite()));
                numbers.ok_or_else(|| wrong("three numbers are needed, such as [0.5, 0.5, 0.5]"))
            };
            let whole = || value.parse().map_err(|_| wrong("a whole number is needed"));
            match key.trim() {
                "model.heads" => overrides.heads = Some(whole()?),
                "model.image_size" => overrides.image_size = Some(whole()?),
                "model.encoder" if !value.is_empty() => overrides.encoder = Some(value.to_string()),
                "model.encoder" => return Err(wrong("a part of the encoder's prefix is needed, such as momentum_encoder")),
                "data.mean" => overrides.mean = Some(three()?),
                "data.std" => overrides.std = Some(three()?),
                _ => {
                    return Err(wrong(
                        "unknown setting; a backbone takes model.heads, model.image_size, model.encoder, data.mean and data.std",
                    ));
                }
            }
        }
        Ok(overrides)
    }
}
