//! A checkpoint in, another tool's files out, read back and compared before it is called done.

use super::backbone::{self, BackboneOverrides, Info, Loaded, Named};
use super::facts::Facts;
use super::layout::Layout;
use super::weights::Weights;
use super::{card, hugging_face, onnx, safetensors, timm};
use crate::{Error, files};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Whose files are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// This program's: timm's names, with metadata.
    Native,
    /// timm's: a state dict that loads strictly and the hub's `config.json`.
    Timm,
    /// Hugging Face's: a folder for `from_pretrained`.
    HuggingFace,
    /// An ONNX graph from normalised pixels to tokens and features.
    Onnx,
}

/// What is asked for.
pub struct Request<'a> {
    /// The checkpoint.
    pub input: &'a Path,
    /// A file (`.safetensors`, `.onnx`), or a folder.
    pub output: &'a Path,
    /// Whose.
    pub target: Target,
    /// What the file does not say, or is to be otherwise.
    pub overrides: &'a BackboneOverrides,
    /// Images that an ONNX graph takes at a time; any number where there is none.
    pub batch: Option<usize>,
    /// Whether files that are there may be replaced.
    pub overwrite: bool,
}

/// Converts a checkpoint and returns the backbone's facts and the files written.
///
/// # Errors
/// What [`backbone::load`] refuses; a place that cannot be written or is taken; an output that does not read back as what was meant.
pub fn convert(request: &Request<'_>) -> Result<(Info, Vec<PathBuf>), Error> {
    let place = Place::of(request)?;
    let Loaded { mut backbone, mut info } = backbone::load(request.input, request.overrides)?;
    if request.target == Target::Timm
        && let Some(said) = timm::take_norm_eps(&mut backbone, &mut info)
    {
        tracing::warn!("{}: {said}", request.output.display());
    }
    let (config, parameters) = (&backbone.vit.config, &backbone.parameters);
    if request.target == Target::HuggingFace {
        info.model.layer_scale = hugging_face::layer_scale(config);
        info.architecture = info.model.name();
    }
    if let Some(why) = hugging_face::refusal(config).filter(|_| request.target == Target::HuggingFace) {
        return Err(Error::file(request.input, why));
    }
    if let Some(folder) = place.main.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|e| Error::file(folder, format!("cannot be made: {e}; give a folder that is there or can be")))?;
    }
    match request.target {
        Target::Native => write_and_compare(&place.main, &backbone::arrays(config, parameters), &info)?,
        Target::Timm => {
            let class = timm::class_with_position(config, parameters);
            write_and_compare(&place.main, &timm::arrays(config, parameters, &class), &info)?;
        }
        Target::HuggingFace => {
            let constants = hugging_face::Constants::of(config);
            write_and_compare(&place.main, &hugging_face::arrays(config, parameters, &constants), &info)?;
        }
        Target::Onnx => onnx::export(&place.main, request.batch, parameters, &info)?,
    }
    for (path, text) in place.companions(&info) {
        files::write_atomically(&path, text.as_bytes())?;
    }
    Ok((info, place.all()))
}

/// Writes a safetensors file, reads it again and compares every number, and that it is taken for what it is.
fn write_and_compare(path: &Path, arrays: &[Named<'_>], info: &Info) -> Result<(), Error> {
    safetensors::write_f32(path, arrays, &backbone::metadata(path, info)?)?;
    let differs = |what: String| Error::file(path, format!("{what}, read back after it was written; write it elsewhere"));
    let weights = Weights::open(path)?;
    for (name, shape, data) in arrays {
        let same = |read: &[f32]| read.len() == data.len() && read.iter().zip(*data).all(|(a, b)| a.to_bits() == b.to_bits());
        if weights.tensors.get(name).is_none_or(|array| array.shape != *shape) || !same(&weights.read(name)?) {
            return Err(differs(format!("`{name}` is not what it should be")));
        }
    }
    let facts = Facts::of(&weights, &Layout::of(&weights, None)?, &BackboneOverrides::default())?;
    if facts.config != info.model {
        return Err(differs(format!("it is a {}, not a {}", facts.config.name(), info.model.name())));
    }
    Ok(())
}

/// Where an export goes: into a folder with all that belongs to it, or into one file with its card beside it.
struct Place {
    target: Target,
    main: PathBuf,
    in_folder: bool,
}

impl Place {
    /// # Errors
    /// A name that does not fit the target, the input itself, files that are there already.
    fn of(request: &Request<'_>) -> Result<Place, Error> {
        let (ending, name) = match request.target {
            Target::Native => ("safetensors", "backbone.safetensors"),
            Target::Timm | Target::HuggingFace => ("safetensors", "model.safetensors"),
            Target::Onnx => ("onnx", "model.onnx"),
        };
        let output = request.output;
        let place = match output.extension().and_then(|e| e.to_str()) {
            Some(e) if e == ending && !output.is_dir() && request.target != Target::HuggingFace => {
                Place { target: request.target, main: output.to_path_buf(), in_folder: false }
            }
            Some("safetensors" | "onnx" | "pth" | "pt" | "bin") if !output.is_dir() => {
                let folder = if request.target == Target::HuggingFace { "" } else { &format!("a .{ending} file or ") };
                return Err(Error::Setting(format!("{}: this target is written to {folder}a folder", output.display())));
            }
            _ => Place { target: request.target, main: output.join(name), in_folder: true },
        };
        let input = backbone::weights_file(request.input).and_then(|file| file.canonicalize().ok());
        let same = |path: &PathBuf| path.canonicalize().ok().is_some_and(|path| input.as_ref() == Some(&path));
        let all = place.all();
        if let Some(path) = all.iter().find(|path| same(path)) {
            return Err(Error::Setting(format!("{} is the file to convert; give another place", path.display())));
        }
        let folder = |path: &Path| {
            path.parent().and_then(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder }.canonicalize().ok())
        };
        if place.in_folder && input.as_deref().and_then(folder).is_some_and(|there| folder(&place.main) == Some(there)) {
            let what = "the folder of the file to convert, whose own config.json would be replaced; give another place";
            return Err(Error::Setting(format!("{} is {what}", output.display())));
        }
        if request.batch.is_some() && request.target != Target::Onnx {
            return Err(Error::Setting("--batch is for --to onnx; the other files take any number of images".into()));
        }
        match all.iter().find(|path| path.exists()).filter(|_| !request.overwrite) {
            Some(path) => Err(Error::Setting(format!("{} is there already; give another place, or --overwrite", path.display()))),
            None => Ok(place),
        }
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.main.with_file_name(name)
    }

    fn card(&self) -> PathBuf {
        let stem = self.main.file_stem().unwrap_or_default().to_string_lossy();
        self.beside(&if self.in_folder { "README.md".to_string() } else { format!("{stem}.README.md") })
    }

    /// Every file of the export.
    fn all(&self) -> Vec<PathBuf> {
        let mut all = vec![self.main.clone()];
        if self.in_folder && self.target != Target::Onnx {
            all.push(self.beside("config.json"));
        }
        if self.target == Target::HuggingFace {
            all.push(self.beside("preprocessor_config.json"));
        }
        all.push(self.card());
        all
    }

    /// The files beside the weights, and what stands in them.
    fn companions(&self, info: &Info) -> Vec<(PathBuf, String)> {
        let main = self.main.file_name().unwrap_or_default().to_string_lossy();
        let pretty = |value: Value| format!("{value:#}\n");
        let mut all = vec![(self.card(), card::text(&main, info))];
        let config = match self.target {
            Target::Native => serde_json::to_value(info).ok(),
            Target::Timm => Some(timm::config(info)),
            Target::HuggingFace => Some(hugging_face::config(info)),
            Target::Onnx => None,
        };
        all.extend(config.filter(|_| self.in_folder).map(|config| (self.beside("config.json"), pretty(config))));
        if self.target == Target::HuggingFace {
            all.push((self.beside("preprocessor_config.json"), pretty(hugging_face::preprocessor(info))));
        }
        all
    }
}
