//! Saving and loading of backbones. Exports are safetensors files with timm's names and an
//! [`Info`] in their metadata. [`load`] reads any checkpoint with a known layout.

use super::info::Info;
use super::read::layouts::Layout;
use super::read::projects::Project;
use super::read::resolve::{PositionRows, ResolvedModel};
use super::read::tensor_map::TensorMap;
use super::read::weights::Weights;
use super::read::{positions, printable};
use super::write::tensors::{HostParameters, backbone_tensors};
use super::write::{model_card, safetensors};
use crate::models::backbone::Backbone;
use crate::models::overrides::BackboneOverrides;
use crate::models::vit::{LARGEST_IMAGE, MAX_PATCHES, Vit, VitConfig};
use crate::{Error, files};
use mimco_engine::Parameters;
use std::path::{Path, PathBuf};

/// Backbone read from a file.
pub struct Loaded {
    /// Model and parameters.
    pub backbone: Backbone,
    /// Description and origin of the model.
    pub info: Info,
}

/// Writes a backbone as a safetensors file with timm's names, and next to it `config.json` (the
/// same [`Info`], indented) and `README.md` (the model card).
///
/// # Errors
/// A file that cannot be written.
pub fn save(path: &Path, parameters: &Parameters, info: &Info) -> Result<(), Error> {
    safetensors::write_f32(path, &backbone_tensors(&info.model, &HostParameters::new(parameters)), &info.metadata(path)?)?;
    let indented = serde_json::to_string_pretty(info).map_err(|e| Error::file(path, e))? + "\n";
    files::write_atomically(&path.with_file_name("config.json"), indented.as_bytes())?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    files::write_atomically(&path.with_file_name("README.md"), model_card::text(&file, info).as_bytes())
}

/// Loads a backbone from any checkpoint with a known layout. Logs the detected project; warns about
/// every assumed value.
///
/// # Errors
/// - A file that is missing, damaged or not a ViT's, or a model of an unsupported kind.
/// - A property of the model that nothing determines; the error names its setting.
/// - The first tensor that is missing, has the wrong shape or is not finite.
///
/// # Examples
/// ```
/// use mimco::interop::{backbone, info::Info};
/// use mimco::models::backbone::FeatureKind;
/// use mimco::models::overrides::BackboneOverrides;
/// use mimco::models::vit::{Vit, VitConfig};
/// use mimco_engine::Parameters;
///
/// // One block of width 16 with 2 heads and 4-pixel patches of 8-pixel images.
/// let config = VitConfig { heads: 2, ..VitConfig::plain(16, 1, 32, 4, 8) };
/// let mut parameters = Parameters::new();
/// Vit::declare(&config, &mut parameters, "");
/// parameters.update_flat_on_host(|flat| flat.iter_mut().enumerate().for_each(|(i, value)| *value = (i as f32).sin()));
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("backbone.safetensors");
/// backbone::save(&path, &parameters, &Info::new(&config, "random", FeatureKind::Class))?;
///
/// let loaded = backbone::load(&path, &BackboneOverrides::default())?;
/// assert_eq!(loaded.info.model, config);
/// assert_eq!(loaded.backbone.parameters.flat_to_host(), parameters.flat_to_host());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn load(path: &Path, overrides: &BackboneOverrides) -> Result<Loaded, Error> {
    let weights = open_weights(path)?;
    let layout = Layout::detect(&weights, overrides.encoder.as_deref())?;
    let resolved = ResolvedModel::resolve(&weights, &layout, overrides)?;
    let info = complete_info(path, &layout, &resolved, overrides)?;
    match &resolved.warning {
        Some(warning) => tracing::warn!("{warning}"),
        None if layout.project == Project::Native => {}
        None => tracing::info!("{}", describe(path, &layout, &resolved)),
    }
    let reader = ParameterReader { map: TensorMap::new(&weights, &layout)?, weights: &weights, resolved: &resolved };
    if let Some(error) = resolved.shape_errors(&reader.map, 1).pop() {
        return Err(Error::file(weights.path(), error));
    }
    let mut parameters = Parameters::new();
    let vit = Vit::declare(&info.model, &mut parameters, "");
    for entry in parameters.entries().to_vec() {
        let values = reader.parameter(&entry.name, info.model.grid())?;
        if values.iter().any(|v| !v.is_finite()) {
            let stored = reader.map.stored_name(&entry.name).unwrap_or(&entry.name);
            let what = format!("`{}` contains values that are not finite in f32; use an earlier checkpoint", printable(stored));
            return Err(Error::file(path, what));
        }
        parameters.update_flat_on_host(|flat| flat[entry.range].copy_from_slice(&values));
    }
    Ok(Loaded { backbone: Backbone { vit, parameters }, info })
}

/// Returns the model that [`load`] would return, without reading parameters or logging.
///
/// # Errors
/// Those of [`load`], except for missing and misshapen tensors and for values that are not finite.
pub fn model(path: &Path, overrides: &BackboneOverrides) -> Result<VitConfig, Error> {
    let weights = open_weights(path)?;
    let layout = Layout::detect(&weights, overrides.encoder.as_deref())?;
    Ok(complete_info(path, &layout, &ResolvedModel::resolve(&weights, &layout, overrides)?, overrides)?.model)
}

/// Returns the description of a model that is resolved completely, at the image size that is set.
fn complete_info(path: &Path, layout: &Layout, resolved: &ResolvedModel, overrides: &BackboneOverrides) -> Result<Info, Error> {
    if !resolved.unresolved.is_empty() {
        let settings: Vec<String> = resolved.unresolved.iter().map(|setting| format!("{}{setting}", overrides.scope())).collect();
        return Err(Error::Setting(format!(
            "{}: the file does not determine the whole model; set {}",
            path.display(),
            settings.join("; and ")
        )));
    }
    let mut info = resolved.info.clone().unwrap_or_else(|| resolved.foreign_info(layout.project));
    info.model = VitConfig { image: overrides.image_size.unwrap_or(resolved.config.image), ..resolved.config.clone() };
    info.architecture = info.model.name();
    let VitConfig { image, patch, .. } = info.model;
    let resized = overrides.image_size.is_some();
    if resized && (image == 0 || image > LARGEST_IMAGE || !image.is_multiple_of(patch) || info.model.patches() > MAX_PATCHES) {
        return Err(Error::Setting(format!(
            "{}: {}model.image_size={image}: give a multiple of the patch size {patch}, at most {LARGEST_IMAGE} and {MAX_PATCHES} patches",
            path.display(),
            overrides.scope()
        )));
    }
    Ok(info)
}

/// Describes a foreign checkpoint in one line: its project, its model and the origin of each value.
fn describe(path: &Path, layout: &Layout, resolved: &ResolvedModel) -> String {
    let values = resolved.provenance.iter().skip(1); // the first is the layout
    let values: Vec<String> = values.map(|value| format!("{} {} ({})", value.property, value.value, value.origin)).collect();
    let encoder = match (layout.prefix.as_str(), layout.encoders) {
        ("", _) => String::new(),
        (prefix, 1) => format!("encoder `{}`, ", printable(prefix)),
        (prefix, several) => format!("encoder `{}` of {several} (model.encoder selects another), ", printable(prefix)),
    };
    format!("{}: {} of {}; {encoder}{}", path.display(), resolved.config.name(), layout.project.name(), values.join(", "))
}

/// Names of the weights in a folder that Hugging Face, timm or this program wrote.
const WEIGHTS_FILES: [&str; 4] = ["model.safetensors", "backbone.safetensors", "export/backbone.safetensors", "pytorch_model.bin"];

/// Returns the file with the weights: `path` itself, or the file in the folder `path`.
pub(super) fn weights_file(path: &Path) -> Option<PathBuf> {
    if !path.is_dir() {
        return Some(path.to_path_buf());
    }
    WEIGHTS_FILES.iter().map(|name| path.join(name)).find(|file| file.is_file())
}

/// Opens a checkpoint: a file, or a folder that contains one.
pub(super) fn open_weights(path: &Path) -> Result<Weights, Error> {
    if !path.is_dir() {
        return Weights::open(path);
    }
    match weights_file(path) {
        Some(file) => Weights::open(&file),
        None if path.join("model.safetensors.index.json").is_file() => {
            Err(Error::file(path, "contains a model in several shards; save it in one file (max_shard_size in save_pretrained)"))
        }
        None => Err(Error::file(path, format!("is a folder without {}; give the checkpoint's file", WEIGHTS_FILES.join(", ")))),
    }
}

/// Reads parameters from a file by timm's names.
struct ParameterReader<'a> {
    map: TensorMap<'a>,
    weights: &'a Weights,
    resolved: &'a ResolvedModel,
}

impl ParameterReader<'_> {
    /// Returns a parameter's values, row by row; positions for a grid of `grid` x `grid` patches.
    fn parameter(&self, name: &str, grid: usize) -> Result<Vec<f32>, Error> {
        let VitConfig { width, registers, .. } = self.resolved.config;
        match (name, self.resolved.positions) {
            ("pos_embed", rows) => {
                let mut positions = self.tensor(name)?;
                match rows {
                    PositionRows::ClassAndPatches => {}
                    PositionRows::Patches => drop(positions.splice(..0, vec![0.0; width])),
                    PositionRows::All => drop(positions.drain(width..(1 + registers) * width)),
                }
                let stored = self.resolved.config.grid();
                Ok(if grid == stored { positions } else { positions::resize(&positions, width, stored, grid) })
            }
            // Registers have no positions here, so theirs are added to the tokens.
            ("reg_token", PositionRows::All) => {
                let (mut tokens, positions) = (self.tensor(name)?, self.tensor("pos_embed")?);
                tokens.iter_mut().zip(&positions[width..]).for_each(|(token, position)| *token += position);
                Ok(tokens)
            }
            _ => match self.map.qkv_parts(name) {
                Some(parts) => {
                    let parts: Result<Vec<Vec<f32>>, Error> = parts.iter().map(|stored| self.weights.read(stored)).collect();
                    Ok(parts?.concat())
                }
                None if self.map.lacks_bias(name) => Ok(vec![0.0; 3 * width]),
                None => self.tensor(name),
            },
        }
    }

    fn tensor(&self, parameter: &str) -> Result<Vec<f32>, Error> {
        self.weights.read(self.map.stored_name(parameter).unwrap_or(parameter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::info::KEY;
    use crate::models::backbone::FeatureKind;
    use crate::models::vit::{IMAGENET_MEAN, Initialization, Position};

    fn small() -> (Vit, Parameters) {
        let (mean, std) = ([0.1, 0.2, 0.3], [0.5; 3]);
        let config = VitConfig { heads: 4, position: Position::Sincos, mean, std, ..VitConfig::plain(64, 2, 96, 4, 8) };
        let mut parameters = Parameters::new();
        let vit = Vit::declare(&config, &mut parameters, "");
        vit.initialize(&mut parameters, Initialization::Normal, 1);
        (vit, parameters)
    }

    fn described(vit: &Vit) -> Info {
        let (data, recipe) = (Some("0000000000000005".into()), Some("seed=3\n".into()));
        Info { seed: Some(3), steps: Some(7), recipe, data, ..Info::new(&vit.config, "mimco", FeatureKind::Mean) }
    }

    fn tensors(parameters: &Parameters, prefix: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let array =
            |e: &mimco_engine::Entry| (format!("{prefix}{}", e.name), e.shape.clone(), parameters.flat_to_host()[e.range.clone()].to_vec());
        parameters.entries().iter().map(array).collect()
    }

    fn write(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)], info: Option<String>) {
        let borrowed: Vec<_> = tensors.iter().map(|(name, shape, data)| (name.clone(), shape.clone(), &data[..])).collect();
        let metadata = info.into_iter().map(|info| (KEY.to_string(), info)).collect();
        safetensors::write_f32(path, &borrowed, &metadata).unwrap();
    }

    #[test]
    fn an_export_keeps_its_heads_and_statistics() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backbone.safetensors");
        let (vit, parameters) = small();
        let info = described(&vit);
        save(&path, &parameters, &info).unwrap();
        let Loaded { backbone, info: loaded } = load(&path, &BackboneOverrides::default()).unwrap();
        assert_eq!((&backbone.vit.config, backbone.parameters.flat_to_host(), loaded), (&vit.config, parameters.flat_to_host(), info));
        assert!(std::fs::read_to_string(folder.path().join("config.json")).unwrap().contains("vit_w64d2_h4_patch4_8"));
        let set = BackboneOverrides { heads: Some(2), ..Default::default() };
        assert_eq!(load(&path, &set).unwrap().info.model.heads, 2);
    }

    #[test]
    fn a_file_without_metadata_is_read_as_timms() {
        let folder = tempfile::tempdir().unwrap();
        let (_, parameters) = small();
        let path = folder.path().join("a.safetensors");
        write(&path, &tensors(&parameters, ""), None);
        let Loaded { backbone, info } = load(&path, &BackboneOverrides::default()).unwrap();
        assert_eq!((info.model.heads, info.model.mean, info.method.as_str()), (1, IMAGENET_MEAN, "timm"));
        assert_eq!(backbone.parameters.flat_to_host(), parameters.flat_to_host());
    }

    #[test]
    fn a_checkpoint_loads_its_encoder_and_not_its_moments() {
        let folder = tempfile::tempdir().unwrap();
        let (vit, parameters) = small();
        let json = described(&vit).to_json(Path::new("")).unwrap();
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
            assert_eq!(loaded.backbone.parameters.flat_to_host(), parameters.flat_to_host());
        }
    }

    #[test]
    fn damaged_files_are_refused_before_anything_is_allocated_for_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let (vit, parameters) = small();
        let fails_with = |tensors: &[(String, Vec<usize>, Vec<f32>)], info: Option<String>, word: &str| {
            write(&path, tensors, info);
            let error = load(&path, &BackboneOverrides::default()).err().unwrap().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        };
        let whole = tensors(&parameters, "");
        let json = described(&vit).to_json(&path).unwrap();
        for (field, wrong) in [
            ("\"depth\":2", "\"depth\":1000000000"),
            ("\"width\":64", "\"width\":4611686018427387904"),
            ("\"image\":8", "\"image\":4000000"),
        ] {
            assert!(json.contains(field));
            fails_with(&whole, Some(json.replace(field, wrong)), "its metadata describe");
        }
        fails_with(&whole, Some(json.replace("\"heads\":4", "\"heads\":0")), "heads");
        fails_with(&whole, Some("{".into()), "metadata cannot be parsed");
        fails_with(&whole[1..], None, "cls_token");
        let mut odd = whole.clone();
        odd[0].2[0] = f32::NAN;
        fails_with(&odd, None, "not finite");
        odd = whole.clone();
        (odd[0].1, odd[0].2) = (vec![1, 1, 32], vec![0.0; 32]);
        fails_with(&odd, None, "cls_token");
    }
}
