//! What a person says of a checkpoint: settings over what the file says.

use crate::Error;
use serde::{Deserialize, Serialize};

/// Settings that override what a file says, or says nothing of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneOverrides {
    /// Attention heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Mean of the channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f32; 3]>,
    /// Deviation of the channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f32; 3]>,
    /// Side of the images in pixels; positions are resized where it is not the file's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// Which of a file's encoders, by a part of what stands before its names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
    /// Whether it is a teacher's, whose settings stand behind `teacher.`; for messages.
    #[serde(skip)]
    pub of_teacher: bool,
}

impl BackboneOverrides {
    /// What stands before its settings.
    pub(super) fn scope(&self) -> &'static str {
        if self.of_teacher { "teacher." } else { "" }
    }

    /// These, and what they leave open from `others`.
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

    /// `model.heads=N`, `data.mean=[r, g, b]`, `data.std=[r, g, b]`, `model.image_size=N`, `model.encoder=NAME`.
    ///
    /// # Errors
    /// Another key, or a value of another kind.
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
