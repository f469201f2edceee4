//! Conversion of a checkpoint to the files of another tool. Every export is read back and compared.

use super::backbone::{self, Loaded};
use super::info::Info;
use super::read::layouts::Layout;
use super::read::resolve::ResolvedModel;
use super::read::weights::Weights;
use super::write::safetensors::NamedTensor;
use super::write::tensors::{HostParameters, backbone_tensors};
use super::write::{hugging_face, model_card, onnx, safetensors, timm};
use crate::models::overrides::BackboneOverrides;
use crate::{Error, files};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Target format of a conversion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum ExportTarget {
    /// timm: a state dict and the hub's config.json.
    Timm,
    /// Hugging Face: a folder for from_pretrained.
    #[cfg_attr(feature = "clap", value(name = "hf"))]
    HuggingFace,
    /// ONNX: from normalized pixels to tokens and features.
    Onnx,
    /// This program: timm's names, with metadata.
    Native,
}

/// Arguments of [`convert`].
pub struct Request<'a> {
    /// Checkpoint to convert: a file or a folder.
    pub input: &'a Path,
    /// File (`.safetensors`, `.onnx`) or folder to write.
    pub output: &'a Path,
    /// Target format.
    pub target: ExportTarget,
    /// Settings that take precedence over what the checkpoint contains.
    pub overrides: &'a BackboneOverrides,
    /// Number of images that an ONNX graph takes at a time; any number if absent.
    pub batch: Option<usize>,
    /// Whether existing files may be replaced.
    pub overwrite: bool,
}

/// Converts a checkpoint; returns the description of the backbone and the paths of the files.
///
/// # Errors
/// - A checkpoint that [`backbone::load`] refuses.
/// - An output that exists, cannot be written or does not fit the target.
/// - An export that, read back, differs from the backbone.
pub fn convert(request: &Request<'_>) -> Result<(Info, Vec<PathBuf>), Error> {
    let destination = Destination::new(request)?;
    let Loaded { mut backbone, mut info } = backbone::load(request.input, request.overrides)?;
    if request.target == ExportTarget::Timm
        && let Some(warning) = timm::replace_norm_eps(&mut backbone, &mut info)
    {
        tracing::warn!("{}: {warning}", request.output.display());
    }
    let (config, parameters) = (&backbone.vit.config, &HostParameters::new(&backbone.parameters));
    if request.target == ExportTarget::HuggingFace {
        info.model.layer_scale = hugging_face::layer_scale(config);
        info.architecture = info.model.name();
    }
    if let Some(reason) = hugging_face::unsupported(config).filter(|_| request.target == ExportTarget::HuggingFace) {
        return Err(Error::file(request.input, reason));
    }
    if let Some(folder) = destination.main.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|e| Error::file(folder, format!("cannot be created: {e}; give a folder that exists or can be created")))?;
    }
    match request.target {
        ExportTarget::Native => write_and_compare(&destination.main, &backbone_tensors(config, parameters), &info)?,
        ExportTarget::Timm => {
            let class = timm::class_with_position(config, parameters);
            write_and_compare(&destination.main, &timm::tensors(config, parameters, &class), &info)?;
        }
        ExportTarget::HuggingFace => {
            let constants = hugging_face::Constants::new(config);
            write_and_compare(&destination.main, &hugging_face::tensors(config, parameters, &constants), &info)?;
        }
        ExportTarget::Onnx => onnx::export(&destination.main, request.batch, parameters, &info)?,
    }
    for (path, text) in destination.companions(&info) {
        files::write_atomically(&path, text.as_bytes())?;
    }
    Ok((info, destination.all()))
}

/// Writes a safetensors file, reads it back, and compares every element and the detected model.
fn write_and_compare(path: &Path, tensors: &[NamedTensor<'_>], info: &Info) -> Result<(), Error> {
    safetensors::write_f32(path, tensors, &info.metadata(path)?)?;
    let differs = |what: String| Error::file(path, format!("{what} after the file was read back; write it to another disk"));
    let weights = Weights::open(path)?;
    for (name, shape, data) in tensors {
        let same = |read: &[f32]| read.len() == data.len() && read.iter().zip(*data).all(|(a, b)| a.to_bits() == b.to_bits());
        if weights.tensors.get(name).is_none_or(|array| array.shape != *shape) || !same(&weights.read(name)?) {
            return Err(differs(format!("`{name}` differs")));
        }
    }
    let resolved = ResolvedModel::resolve(&weights, &Layout::detect(&weights, None)?, &BackboneOverrides::default())?;
    if resolved.config != info.model {
        return Err(differs(format!("the model is a {}, not a {},", resolved.config.name(), info.model.name())));
    }
    Ok(())
}

/// Paths of an export: a folder with all files, or one file with its model card next to it.
struct Destination {
    target: ExportTarget,
    main: PathBuf,
    in_folder: bool,
}

impl Destination {
    /// Determines and checks the paths of an export.
    ///
    /// # Errors
    /// A name that does not fit the target, the input itself, or files that exist.
    fn new(request: &Request<'_>) -> Result<Destination, Error> {
        let target = request.target;
        let (extension, name) = match target {
            ExportTarget::Native => ("safetensors", "backbone.safetensors"),
            ExportTarget::Timm | ExportTarget::HuggingFace => ("safetensors", "model.safetensors"),
            ExportTarget::Onnx => ("onnx", "model.onnx"),
        };
        let output = request.output;
        let destination = match output.extension().and_then(|e| e.to_str()) {
            Some(e) if e == extension && !output.is_dir() && target != ExportTarget::HuggingFace => {
                Destination { target, main: output.to_path_buf(), in_folder: false }
            }
            Some("safetensors" | "onnx" | "pth" | "pt" | "bin") if !output.is_dir() => {
                let file = if target == ExportTarget::HuggingFace { "" } else { &format!("a .{extension} file or ") };
                return Err(Error::Setting(format!("{}: this target is written to {file}a folder", output.display())));
            }
            _ => Destination { target, main: output.join(name), in_folder: true },
        };
        let input = backbone::weights_file(request.input).and_then(|file| file.canonicalize().ok());
        let is_input = |path: &PathBuf| path.canonicalize().ok().is_some_and(|path| input.as_ref() == Some(&path));
        let all = destination.all();
        if let Some(path) = all.iter().find(|path| is_input(path)) {
            return Err(Error::Setting(format!("{} is the file to convert; give another place", path.display())));
        }
        let folder = |path: &Path| {
            path.parent().and_then(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder }.canonicalize().ok())
        };
        if destination.in_folder && input.as_deref().and_then(folder).is_some_and(|input| folder(&destination.main) == Some(input)) {
            let what = "the folder of the file to convert, whose own config.json would be replaced; give another place";
            return Err(Error::Setting(format!("{} is {what}", output.display())));
        }
        if request.batch.is_some() && target != ExportTarget::Onnx {
            return Err(Error::Setting("--batch requires --to onnx; the other targets take any number of images".into()));
        }
        match all.iter().find(|path| path.exists()).filter(|_| !request.overwrite) {
            Some(path) => Err(Error::Setting(format!("{} exists already; give another place, or --overwrite", path.display()))),
            None => Ok(destination),
        }
    }

    fn sibling(&self, name: &str) -> PathBuf {
        self.main.with_file_name(name)
    }

    fn model_card(&self) -> PathBuf {
        let stem = self.main.file_stem().unwrap_or_default().to_string_lossy();
        self.sibling(&if self.in_folder { "README.md".to_string() } else { format!("{stem}.README.md") })
    }

    /// Returns the paths of all files of the export.
    fn all(&self) -> Vec<PathBuf> {
        let mut all = vec![self.main.clone()];
        if self.in_folder && self.target != ExportTarget::Onnx {
            all.push(self.sibling("config.json"));
        }
        if self.target == ExportTarget::HuggingFace {
            all.push(self.sibling("preprocessor_config.json"));
        }
        all.push(self.model_card());
        all
    }

    /// Returns the paths and contents of the text files next to the weights.
    fn companions(&self, info: &Info) -> Vec<(PathBuf, String)> {
        let main = self.main.file_name().unwrap_or_default().to_string_lossy();
        let pretty = |value: Value| format!("{value:#}\n");
        let mut all = vec![(self.model_card(), model_card::text(&main, info))];
        let config = match self.target {
            ExportTarget::Native => serde_json::to_value(info).ok(),
            ExportTarget::Timm => Some(timm::config(info)),
            ExportTarget::HuggingFace => Some(hugging_face::config(info)),
            ExportTarget::Onnx => None,
        };
        all.extend(config.filter(|_| self.in_folder).map(|config| (self.sibling("config.json"), pretty(config))));
        if self.target == ExportTarget::HuggingFace {
            all.push((self.sibling("preprocessor_config.json"), pretty(hugging_face::preprocessor(info))));
        }
        all
    }
}
