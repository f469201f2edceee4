//! A backbone on disk: safetensors with timm's names, and in its metadata what shapes do not tell.

use super::safetensors::{self, Tensor};
use crate::evaluation::features::FeatureKind;
use crate::methods::mimco::Backbone;
use crate::models::vit::{Vit, VitConfig};
use crate::settings::Config;
use crate::{Error, files};
use mimco_engine::Parameters;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The metadata key that holds [`Info`] as JSON.
pub(crate) const KEY: &str = "mimco";
/// What may stand before the names: a checkpoint's parameters, and MoCo v3's encoder among them.
const PREFIXES: [&str; 2] = ["parameter.base_encoder.", "parameter."];

/// What a backbone is and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Architecture with sizes and heads.
    pub model: VitConfig,
    /// The architecture's name.
    pub architecture: String,
    /// Method that trained it, `random` for none.
    pub method: String,
    /// Seed of the run.
    pub seed: u64,
    /// Updates done.
    pub steps: u64,
    /// Pooling of the feature that was trained.
    pub pooling: FeatureKind,
}

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
}

impl Info {
    /// What a run's backbone is.
    pub fn of(config: &Config, vit: &Vit, steps: u64) -> Info {
        Info {
            model: vit.config.clone(),
            architecture: vit.config.name(),
            method: config.method.to_string(),
            seed: config.seed,
            steps,
            pooling: config.feature_kind(),
        }
    }

    /// As one line, for a file's metadata.
    pub(crate) fn to_json(&self, path: &Path) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|e| Error::file(path, e))
    }
}

impl BackboneOverrides {
    /// These, and what they leave open from `others`.
    pub fn or(self, others: BackboneOverrides) -> BackboneOverrides {
        BackboneOverrides { heads: self.heads.or(others.heads), mean: self.mean.or(others.mean), std: self.std.or(others.std) }
    }

    /// `model.heads=N`, `data.mean=[r, g, b]`, `data.std=[r, g, b]`.
    ///
    /// # Errors
    /// Another key, or a value of another kind.
    pub fn from_settings(settings: &[String]) -> Result<BackboneOverrides, Error> {
        let mut overrides = BackboneOverrides::default();
        for setting in settings {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            let wrong = |what: &str| Error::Setting(format!("{setting}: {what}"));
            let three = || {
                let numbers: Result<Vec<f32>, _> = value.trim_matches(['[', ']']).split(',').map(|v| v.trim().parse()).collect();
                let numbers = numbers.ok().and_then(|v| <[f32; 3]>::try_from(v).ok()).filter(|v| v.iter().all(|v| v.is_finite()));
                numbers.ok_or_else(|| wrong("three numbers are needed, such as [0.5, 0.5, 0.5]"))
            };
            match key.trim() {
                "model.heads" => overrides.heads = Some(value.trim().parse().map_err(|_| wrong("a whole number is needed"))?),
                "data.mean" => overrides.mean = Some(three()?),
                "data.std" => overrides.std = Some(three()?),
                _ => return Err(wrong("unknown setting; a backbone takes model.heads, data.mean and data.std")),
            }
        }
        Ok(overrides)
    }
}

/// Writes the backbone and, beside it, `config.json` with the same facts for a reader.
pub fn save(path: &Path, vit: &Vit, parameters: &Parameters, info: &Info) -> Result<(), Error> {
    let names: BTreeMap<&str, &str> = parameters.entries().iter().map(|e| (e.name.as_str(), strip(&e.name))).collect();
    let wanted = names_of(&vit.config);
    let tensors: Vec<(String, Vec<usize>, &[f32])> = parameters
        .entries()
        .iter()
        .filter(|e| wanted.iter().any(|(name, _)| name == names[e.name.as_str()]))
        .map(|e| (names[e.name.as_str()].to_string(), e.shape.clone(), &parameters.flat()[e.range.clone()]))
        .collect();
    let metadata = BTreeMap::from([(KEY.to_string(), info.to_json(path)?), ("format".to_string(), "pt".to_string())]);
    safetensors::write_f32(path, &tensors, &metadata)?;
    let readable = serde_json::to_string_pretty(info).map_err(|e| Error::file(path, e))?
        + "
";
    files::write_atomically(&path.with_file_name("config.json"), readable.as_bytes())
}

fn strip(name: &str) -> &str {
    name.strip_prefix("base_encoder.").unwrap_or(name)
}

/// timm's names and shapes for a model.
fn names_of(config: &VitConfig) -> Vec<(String, Vec<usize>)> {
    let mut parameters = Parameters::new();
    Vit::declare(config, &mut parameters, "");
    parameters.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect()
}

/// Reads a backbone: this project's export or checkpoint, or any file with timm's names (taken as timm's: width / 64 heads and ImageNet's mean and
/// deviation, with a warning, unless overridden).
///
/// # Errors
/// A file that is missing, not safetensors, or not a ViT; the first key that is missing or misshapen.
pub fn load(path: &Path, overrides: &BackboneOverrides) -> Result<(Backbone, Option<Info>), Error> {
    let mut file = safetensors::read(path)?;
    if let Some(prefix) = PREFIXES.iter().find(|prefix| file.tensors.contains_key(&format!("{prefix}cls_token"))) {
        file.tensors = file.tensors.into_iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t))).collect();
    }
    let info = match file.metadata.get(KEY) {
        Some(json) => {
            let info: Info = serde_json::from_str(json)
                .map_err(|e| Error::file(path, format!("its metadata cannot be read ({e}); export the backbone again")))?;
            Some(info)
        }
        None => None,
    };
    // Sizes come from the tensors that are there: a file's word for them would be allocated before it is found false.
    let found = sizes(path, &file.tensors)?;
    let mut config = match &info {
        Some(info) => {
            let told = &info.model;
            let same =
                |a: &VitConfig, b: &VitConfig| (a.width, a.depth, a.mlp, a.patch, a.image) == (b.width, b.depth, b.mlp, b.patch, b.image);
            if !same(told, &found) {
                return Err(Error::file(
                    path,
                    format!("its metadata says {}, its tensors are a {}; export the backbone again", told.name(), found.name()),
                ));
            }
            told.clone()
        }
        None => as_timms(path, found, overrides)?,
    };
    config.heads = overrides.heads.unwrap_or(config.heads);
    config.mean = overrides.mean.unwrap_or(config.mean);
    config.std = overrides.std.unwrap_or(config.std);
    check(path, &config)?;
    let mut parameters = Parameters::new();
    let vit = Vit::declare(&config, &mut parameters, "");
    for entry in parameters.entries().to_vec() {
        let tensor = file.tensors.get(&entry.name).ok_or_else(|| {
            Error::file(path, format!("has no tensor `{}`; it is not a whole ViT backbone with timm's names", entry.name))
        })?;
        if tensor.shape != entry.shape {
            return Err(Error::file(
                path,
                format!("`{}` is {:?} where {} needs {:?}", entry.name, tensor.shape, config.name(), entry.shape),
            ));
        }
        if tensor.data.iter().any(|v| !v.is_finite()) {
            return Err(Error::file(path, format!("`{}` holds numbers that are not finite; take an earlier checkpoint", entry.name)));
        }
        parameters.flat_mut()[entry.range].copy_from_slice(&tensor.data);
    }
    Ok((Backbone { vit, parameters }, info))
}

/// Sizes from the shapes of timm's keys; the heads, which shapes do not tell, as timm has them.
fn sizes(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<VitConfig, Error> {
    let shape = |name: &str| tensors.get(name).map(|t| t.shape.as_slice());
    let not = |what: &str| Error::file(path, format!("{what}; it is not a ViT backbone with timm's names"));
    let Some(&[width, 3, patch, patch2]) = shape("patch_embed.proj.weight") else {
        return Err(not("has no `patch_embed.proj.weight` of [width, 3, patch, patch]"));
    };
    let Some(&[1, tokens, _]) = shape("pos_embed") else { return Err(not("has no `pos_embed` of [1, tokens, width]")) };
    let Some(&[mlp, _]) = shape("blocks.0.mlp.fc1.weight") else { return Err(not("has no `blocks.0.mlp.fc1.weight`")) };
    let depth = (0..).take_while(|i| tensors.contains_key(&format!("blocks.{i}.norm1.weight"))).count();
    let grid = tokens.saturating_sub(1).isqrt();
    if patch != patch2 || patch == 0 || depth == 0 || grid == 0 || grid * grid + 1 != tokens {
        return Err(not(&format!("its {tokens} positions and patches of {patch}x{patch2} are no square image with a class token")));
    }
    Ok(VitConfig { heads: width / 64, ..VitConfig::plain(width, depth, mlp, patch, grid * patch) })
}

/// A file without metadata is taken as timm's, which is said.
fn as_timms(path: &Path, found: VitConfig, overrides: &BackboneOverrides) -> Result<VitConfig, Error> {
    if overrides.heads.is_none() && found.heads == 0 {
        return Err(Error::Setting(format!("{}: a width of {} does not tell its heads; set model.heads", path.display(), found.width)));
    }
    tracing::warn!(
        "{}: no metadata, so taken as timm's: {} heads{}, ImageNet mean and deviation; set model.heads, data.mean, data.std (behind `teacher.` \
         for a teacher) if it is somebody else's (MoCo v3's ViT-S has 12 heads)",
        path.display(),
        overrides.heads.unwrap_or(found.heads),
        if overrides.heads.is_some() { " (set)" } else { " (width / 64)" }
    );
    Ok(found)
}

fn check(path: &Path, config: &VitConfig) -> Result<(), Error> {
    if config.heads == 0 || !config.width.is_multiple_of(config.heads) {
        return Err(Error::Setting(format!(
            "{}: {} heads do not divide a width of {}; set model.heads",
            path.display(),
            config.heads,
            config.width
        )));
    }
    if !config.std.iter().all(|s| *s > 0.0 && s.is_finite()) || !config.mean.iter().all(|m| m.is_finite()) {
        let (mean, std) = (config.mean, config.std);
        return Err(Error::Setting(format!("{}: data.mean={mean:?} and data.std={std:?}: finite, data.std above 0", path.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::vit::{IMAGENET_MEAN, Position, Start};

    fn small() -> (Vit, Parameters) {
        let (mean, std) = ([0.1, 0.2, 0.3], [0.5; 3]);
        let config = VitConfig { heads: 4, position: Position::Sincos, mean, std, ..VitConfig::plain(64, 2, 96, 4, 8) };
        let mut parameters = Parameters::new();
        let vit = Vit::declare(&config, &mut parameters, "");
        vit.initialise(&mut parameters, Start::Normal, 1);
        (vit, parameters)
    }

    fn tensors(parameters: &Parameters, prefix: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let array = |e: &mimco_engine::Entry| (format!("{prefix}{}", e.name), e.shape.clone(), parameters.flat()[e.range.clone()].to_vec());
        parameters.entries().iter().map(array).collect()
    }

    fn write(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)], info: Option<String>) {
        let borrowed: Vec<_> = tensors.iter().map(|(name, shape, data)| (name.clone(), shape.clone(), &data[..])).collect();
        let metadata = info.into_iter().map(|info| (KEY.to_string(), info)).collect();
        safetensors::write_f32(path, &borrowed, &metadata).unwrap();
    }

    #[test]
    fn an_export_comes_back_with_its_heads_and_statistics() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backbone.safetensors");
        let (vit, parameters) = small();
        let info = Info::of(&Config::defaults(crate::settings::MethodName::Mimco), &vit, 7);
        save(&path, &vit, &parameters, &info).unwrap();
        let (loaded, told) = load(&path, &BackboneOverrides::default()).unwrap();
        assert_eq!((&loaded.vit.config, loaded.parameters.flat(), told), (&vit.config, parameters.flat(), Some(info)));
        assert!(std::fs::read_to_string(folder.path().join("config.json")).unwrap().contains("vit_w64d2_h4_patch4_8"));
        let set = BackboneOverrides { heads: Some(2), ..Default::default() };
        assert_eq!(load(&path, &set).unwrap().0.vit.config.heads, 2);
    }

    #[test]
    fn a_file_without_metadata_is_taken_as_timms_and_a_checkpoint_by_its_encoder() {
        let folder = tempfile::tempdir().unwrap();
        let (_, parameters) = small();
        for prefix in ["", "parameter.", "parameter.base_encoder."] {
            let path = folder.path().join("a.safetensors");
            write(&path, &tensors(&parameters, prefix), None);
            let (loaded, info) = load(&path, &BackboneOverrides::default()).unwrap();
            assert_eq!((loaded.vit.config.heads, loaded.vit.config.mean, info), (1, IMAGENET_MEAN, None));
            assert_eq!(loaded.parameters.flat(), parameters.flat());
        }
    }

    #[test]
    fn damaged_files_are_told_before_anything_is_allocated_for_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let (vit, parameters) = small();
        let says = |tensors: &[(String, Vec<usize>, Vec<f32>)], info: Option<String>, word: &str| {
            write(&path, tensors, info);
            let error = load(&path, &BackboneOverrides::default()).err().unwrap().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        };
        let whole = tensors(&parameters, "");
        let json = Info::of(&Config::defaults(crate::settings::MethodName::Mimco), &vit, 7).to_json(&path).unwrap();
        for (field, lie) in [
            ("\"depth\":2", "\"depth\":1000000000"),
            ("\"width\":64", "\"width\":4611686018427387904"),
            ("\"image\":8", "\"image\":4000000"),
        ] {
            assert!(json.contains(field));
            says(&whole, Some(json.replace(field, lie)), "its metadata says");
        }
        says(&whole, Some(json.replace("\"heads\":4", "\"heads\":0")), "heads");
        says(&whole, Some("{".into()), "metadata cannot be read");
        says(&whole[1..], None, "cls_token");
        let mut odd = whole.clone();
        odd[0].2[0] = f32::NAN;
        says(&odd, None, "not finite");
        odd = whole.clone();
        (odd[0].1, odd[0].2) = (vec![1, 1, 32], vec![0.0; 32]);
        says(&odd, None, "cls_token");
    }
}
