//! A backbone on disk. Written: safetensors with timm's names, and in its metadata what shapes do not tell. Read: any checkpoint whose layout is
//! known ([`super::layout`]).

use super::card;
use super::facts::{Facts, Found, PositionRows};
use super::layout::{Layout, shown};
pub use super::overrides::BackboneOverrides;
use super::positions;
use super::safetensors;
use super::sources::Source;
use super::weights::Weights;
use crate::evaluation::features::FeatureKind;
use crate::methods::mimco::Backbone;
use crate::models::vit::{Vit, VitConfig};
use crate::settings::Config;
use crate::settings::check::{LARGEST_IMAGE, MAX_PATCHES};
use crate::{Error, files};
use mimco_engine::Parameters;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The metadata key that holds [`Info`] as JSON.
pub(crate) const KEY: &str = "mimco";

/// What a backbone is and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Architecture with sizes and heads.
    pub model: VitConfig,
    /// The architecture's name.
    pub architecture: String,
    /// Method that trained it, `random` for none; for a converted checkpoint its source.
    pub method: String,
    /// Seed of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Updates done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Pooling of the feature that was trained.
    pub pooling: FeatureKind,
    /// Settings of the run that change what comes out of it, `key=value` a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// Digest of the images trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Method and architecture of the teacher, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// Licence of the source's code, or of the teacher's source's, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

/// A backbone from a file.
pub struct Loaded {
    /// Model and parameters.
    pub backbone: Backbone,
    /// What it is and where it comes from.
    pub info: Info,
}

impl Info {
    /// What a run's backbone is.
    pub fn of(config: &Config, vit: &Vit, steps: u64, data: Option<u64>, teacher: Option<&Info>) -> Info {
        Info {
            model: vit.config.clone(),
            architecture: vit.config.name(),
            method: config.method.to_string(),
            seed: Some(config.seed),
            steps: Some(steps),
            pooling: config.feature_kind(),
            recipe: Some(config.lasting()),
            data: data.map(|digest| format!("{digest:016x}")),
            teacher: teacher.map(|teacher| format!("{} {}", teacher.method, teacher.architecture)),
            licence: teacher.and_then(|teacher| teacher.licence.clone()),
        }
    }

    /// What a foreign checkpoint's backbone is.
    fn of_source(source: Source, facts: &Facts) -> Info {
        Info {
            model: facts.config.clone(),
            architecture: facts.config.name(),
            method: source.name().to_string(),
            seed: None,
            steps: None,
            pooling: facts.pooling,
            recipe: None,
            data: None,
            teacher: None,
            licence: source.licence().map(str::to_string),
        }
    }

    /// As one line, for a file's metadata.
    pub(crate) fn to_json(&self, path: &Path) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|e| Error::file(path, e))
    }
}

/// Writes a backbone with timm's names, and beside it `config.json` with the same facts for a reader and `README.md`, its model card.
///
/// # Errors
/// Where a file cannot be written.
pub fn save(path: &Path, parameters: &Parameters, info: &Info) -> Result<(), Error> {
    safetensors::write_f32(path, &arrays(&info.model, parameters), &metadata(path, info)?)?;
    let readable = serde_json::to_string_pretty(info).map_err(|e| Error::file(path, e))? + "\n";
    files::write_atomically(&path.with_file_name("config.json"), readable.as_bytes())?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    files::write_atomically(&path.with_file_name("README.md"), card::text(&file, info).as_bytes())
}

/// An array to write: name, sizes, numbers.
pub(super) type Named<'a> = (String, Vec<usize>, &'a [f32]);

/// A backbone's parameters by timm's names, from a table of its own or, as MoCo v3's, among others'.
pub(super) fn arrays<'a>(config: &VitConfig, parameters: &'a Parameters) -> Vec<Named<'a>> {
    let find = |name: &str| parameters.find(name).or_else(|| parameters.find(&format!("base_encoder.{name}")));
    let all = config.parameters().into_iter();
    all.filter_map(|(name, shape)| find(&name).map(|id| (name, shape, parameters.get(id)))).collect()
}

/// A number as people write it: 1e-6 and 0.485, not what f64 makes of the f32.
pub(super) fn decimal(number: f32) -> f64 {
    format!("{number:e}").parse().unwrap_or(f64::from(number))
}

/// A safetensors file's metadata.
pub(super) fn metadata(path: &Path, info: &Info) -> Result<BTreeMap<String, String>, Error> {
    Ok(BTreeMap::from([(KEY.to_string(), info.to_json(path)?), ("format".to_string(), "pt".to_string())]))
}

/// Reads a backbone from any checkpoint whose layout is known. What it was taken for is said, and what was taken on nobody's word warned of.
///
/// # Errors
/// A file that is missing, damaged, no ViT's or of a kind that cannot be run; a fact that nothing tells, which names its setting; the first tensor
/// that is missing, misshapen or not finite.
pub fn load(path: &Path, overrides: &BackboneOverrides) -> Result<Loaded, Error> {
    let weights = open(path)?;
    let layout = Layout::of(&weights, overrides.encoder.as_deref())?;
    let facts = Facts::of(&weights, &layout, overrides)?;
    let info = info(path, &layout, &facts, overrides)?;
    match &facts.warning {
        Some(warning) => tracing::warn!("{warning}"),
        None if layout.source == Source::Native => {}
        None => tracing::info!("{}", taken_for(path, &layout, &facts)),
    }
    let reader = Reader { found: Found::new(&weights, &layout)?, weights: &weights, facts: &facts };
    if let Some(fault) = facts.faults(&reader.found, 1).pop() {
        return Err(Error::file(weights.path(), fault));
    }
    let mut parameters = Parameters::new();
    let vit = Vit::declare(&info.model, &mut parameters, "");
    for entry in parameters.entries().to_vec() {
        let values = reader.parameter(&entry.name, info.model.grid())?;
        if values.iter().any(|v| !v.is_finite()) {
            let theirs = reader.found.name(&entry.name).unwrap_or(&entry.name);
            let what = format!("`{}` holds numbers that are not finite in f32; take an earlier checkpoint", shown(theirs));
            return Err(Error::file(path, what));
        }
        parameters.flat_mut()[entry.range].copy_from_slice(&values);
    }
    Ok(Loaded { backbone: Backbone { vit, parameters }, info })
}

/// The model that [`load`] would return, without its numbers and in silence.
///
/// # Errors
/// As there, but for the tensors.
pub fn model(path: &Path, overrides: &BackboneOverrides) -> Result<VitConfig, Error> {
    let weights = open(path)?;
    let layout = Layout::of(&weights, overrides.encoder.as_deref())?;
    Ok(info(path, &layout, &Facts::of(&weights, &layout, overrides)?, overrides)?.model)
}

/// What a file's backbone is, once nothing is left open.
fn info(path: &Path, layout: &Layout, facts: &Facts, overrides: &BackboneOverrides) -> Result<Info, Error> {
    if !facts.open.is_empty() {
        let open: Vec<String> = facts.open.iter().map(|open| format!("{}{open}", overrides.scope())).collect();
        return Err(Error::Setting(format!("{}: cannot be told from the file, so set {}", path.display(), open.join("; and "))));
    }
    let mut info = facts.info.clone().unwrap_or_else(|| Info::of_source(layout.source, facts));
    info.model = VitConfig { image: overrides.image_size.unwrap_or(facts.config.image), ..facts.config.clone() };
    info.architecture = info.model.name();
    let VitConfig { image, patch, .. } = info.model;
    let resized = overrides.image_size.is_some();
    if resized && (image == 0 || image > LARGEST_IMAGE || !image.is_multiple_of(patch) || info.model.patches() > MAX_PATCHES) {
        return Err(Error::Setting(format!(
            "{}: {}model.image_size={image}: a multiple of its patches of {patch}, at most {LARGEST_IMAGE} and {MAX_PATCHES} patches",
            path.display(),
            overrides.scope()
        )));
    }
    Ok(info)
}

/// A foreign file in a line: what it was taken for, and why.
fn taken_for(path: &Path, layout: &Layout, facts: &Facts) -> String {
    let said: Vec<String> = facts.said.iter().skip(1).map(|said| format!("{} {} ({})", said.what, said.value, said.whence)).collect();
    let encoder = match (layout.prefix.as_str(), layout.encoders) {
        ("", _) => String::new(),
        (prefix, 1) => format!("encoder `{}`, ", shown(prefix)),
        (prefix, several) => format!("encoder `{}` of {several} (model.encoder names another), ", shown(prefix)),
    };
    format!("{}: {} of {}; {encoder}{}", path.display(), facts.config.name(), layout.source.name(), said.join(", "))
}

/// Names of weights in a folder, as Hugging Face, timm and this program give them.
const NAMES: [&str; 4] = ["model.safetensors", "backbone.safetensors", "export/backbone.safetensors", "pytorch_model.bin"];

/// The weights of a folder, or the file itself.
pub(super) fn weights_file(path: &Path) -> Option<PathBuf> {
    if !path.is_dir() {
        return Some(path.to_path_buf());
    }
    NAMES.iter().map(|name| path.join(name)).find(|file| file.is_file())
}

/// Opens a checkpoint; of a folder its weights.
pub(super) fn open(path: &Path) -> Result<Weights, Error> {
    if !path.is_dir() {
        return Weights::open(path);
    }
    match weights_file(path) {
        Some(file) => Weights::open(&file),
        None if path.join("model.safetensors.index.json").is_file() => {
            Err(Error::file(path, "holds a model in several shards; save it in one file (max_shard_size in save_pretrained)"))
        }
        None => Err(Error::file(path, format!("is a folder without {}; give the checkpoint's file", NAMES.join(", ")))),
    }
}

/// Parameters of a file by their names here.
struct Reader<'a> {
    found: Found<'a>,
    weights: &'a Weights,
    facts: &'a Facts,
}

impl Reader<'_> {
    /// A parameter's values; positions for a grid of this side.
    fn parameter(&self, name: &str, grid: usize) -> Result<Vec<f32>, Error> {
        let VitConfig { width, registers, .. } = self.facts.config;
        match (name, self.facts.positions) {
            ("pos_embed", rows) => {
                let mut positions = self.whole(name)?;
                match rows {
                    PositionRows::ClassAndPatches => {}
                    PositionRows::Patches => drop(positions.splice(..0, vec![0.0; width])),
                    PositionRows::All => drop(positions.drain(width..(1 + registers) * width)),
                }
                let own = self.facts.config.grid();
                Ok(if grid == own { positions } else { positions::resize(&positions, width, own, grid) })
            }
            ("reg_token", PositionRows::All) => {
                let (mut tokens, positions) = (self.whole(name)?, self.whole("pos_embed")?);
                tokens.iter_mut().zip(&positions[width..]).for_each(|(token, position)| *token += position);
                Ok(tokens)
            }
            _ => match self.found.thirds(name) {
                Some(thirds) => {
                    let thirds: Result<Vec<Vec<f32>>, Error> = thirds.iter().map(|theirs| self.weights.read(theirs)).collect();
                    Ok(thirds?.concat())
                }
                None if self.found.lacks_bias(name) => Ok(vec![0.0; 3 * width]),
                None => self.whole(name),
            },
        }
    }

    fn whole(&self, ours: &str) -> Result<Vec<f32>, Error> {
        self.weights.read(self.found.name(ours).unwrap_or(ours))
    }
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
        let info = Info::of(&Config::defaults(crate::settings::MethodName::Mimco), &vit, 7, Some(5), None);
        save(&path, &parameters, &info).unwrap();
        let Loaded { backbone, info: told } = load(&path, &BackboneOverrides::default()).unwrap();
        assert_eq!((&backbone.vit.config, backbone.parameters.flat(), told), (&vit.config, parameters.flat(), info));
        assert!(std::fs::read_to_string(folder.path().join("config.json")).unwrap().contains("vit_w64d2_h4_patch4_8"));
        let set = BackboneOverrides { heads: Some(2), ..Default::default() };
        assert_eq!(load(&path, &set).unwrap().info.model.heads, 2);
    }

    #[test]
    fn a_file_without_metadata_is_taken_as_timms() {
        let folder = tempfile::tempdir().unwrap();
        let (_, parameters) = small();
        let path = folder.path().join("a.safetensors");
        write(&path, &tensors(&parameters, ""), None);
        let Loaded { backbone, info } = load(&path, &BackboneOverrides::default()).unwrap();
        assert_eq!((info.model.heads, info.model.mean, info.method.as_str()), (1, IMAGENET_MEAN, "timm"));
        assert_eq!(backbone.parameters.flat(), parameters.flat());
    }

    #[test]
    fn a_checkpoint_is_its_encoder_and_not_a_moment_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (vit, parameters) = small();
        let json = Info::of(&Config::defaults(crate::settings::MethodName::MocoV3), &vit, 7, None, None).to_json(Path::new("")).unwrap();
        for prefix in ["parameter.", "parameter.base_encoder."] {
            let path = folder.path().join("a.safetensors");
            let mut all = tensors(&parameters, prefix);
            all.extend(
                tensors(&parameters, &prefix.replace("parameter.", "exp_avg."))
                    .into_iter()
                    .map(|(name, shape, data)| (name, shape, data.iter().map(|v| v + 1.0).collect())),
            );
            write(&path, &all, Some(json.clone()));
            let loaded = load(&path, &BackboneOverrides::default()).unwrap();
            assert_eq!(loaded.backbone.parameters.flat(), parameters.flat());
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
        let json = Info::of(&Config::defaults(crate::settings::MethodName::Mimco), &vit, 7, Some(5), None).to_json(&path).unwrap();
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
