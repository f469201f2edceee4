//! The model in a checkpoint. Its sizes follow from the tensors' shapes. Its other properties come
//! from, in this order: the settings, the file's metadata, the files next to it, and what is known
//! of the project that wrote it. Anything still unknown is an error that names the setting which
//! supplies it.

use super::escape::printable;
use super::layouts::Layout;
use super::projects::Project;
use super::sidecar::Sidecar;
use super::tensor_map::TensorMap;
use super::unsupported::SWIGLU;
use super::weights::Weights;
use crate::Error;
use crate::interop::info::{Info, KEY};
use crate::models::backbone::FeatureKind;
use crate::models::overrides::BackboneOverrides;
use crate::models::vit::VitConfig;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// Property of a model, its value, and where the value comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Provenance {
    /// Name of the property.
    #[serde(rename = "what")]
    pub property: &'static str,
    /// Value of the property.
    pub value: String,
    /// Origin of the value, such as `the setting` or `config.json`.
    #[serde(rename = "whence")]
    pub origin: String,
}

/// Rows of a file's position embeddings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PositionRows {
    /// The class token and the patches.
    ClassAndPatches,
    /// The patches only (timm's `no_embed_class`).
    Patches,
    /// The class token, the registers and the patches.
    All,
}

/// Everything known about a checkpoint's backbone.
pub struct ResolvedModel {
    /// Model at the file's image size; 0 heads if their number is unknown.
    pub config: VitConfig,
    /// Description in the file's metadata, for files of this program.
    pub info: Option<Info>,
    /// Rows of the position embeddings.
    pub positions: PositionRows,
    /// Feature that the pre-training trained.
    pub pooling: FeatureKind,
    /// Properties and their origins, for people.
    pub provenance: Vec<Provenance>,
    /// Settings that are required to load the model, each with the reason.
    pub unresolved: Vec<String>,
    /// Values that were assumed without evidence in the file.
    pub warning: Option<String>,
}

impl ResolvedModel {
    /// Determines the model in a file.
    ///
    /// # Errors
    /// Shapes that are not a ViT's; metadata or configurations that cannot be read, or that
    /// contradict the tensors.
    pub fn resolve(weights: &Weights, layout: &Layout, overrides: &BackboneOverrides) -> Result<ResolvedModel, Error> {
        let (path, project) = (weights.path(), layout.project);
        let info = weights.texts.get(KEY).map(|json| parse_metadata(path, json)).transpose()?;
        let image = info.as_ref().map(|info| info.model.image).or(overrides.image_size);
        let (sizes, positions) = sizes(&TensorMap::new(weights, layout)?, image).map_err(|what| Error::file(path, what))?;
        info.iter().try_for_each(|info| check_against_metadata(path, info, &sizes))?;
        let sidecar = if info.is_some() { Sidecar::default() } else { Sidecar::read(path, project, &sizes)? };
        let layout = Provenance { property: "layout", value: project.name().into(), origin: "the tensors' names".into() };
        let mut resolved = ResolvedModel {
            config: info.as_ref().map_or(sizes, |info| info.model.clone()),
            pooling: info.as_ref().map(|info| info.pooling).or(sidecar.pooling).unwrap_or(FeatureKind::Class),
            info,
            positions,
            provenance: vec![layout],
            unresolved: Vec::new(),
            warning: None,
        };
        resolved.resolve_heads(project, &sidecar, overrides);
        resolved.resolve_statistics(project, &sidecar, overrides);
        if let Some(eps) = sidecar.norm_eps {
            resolved.config.norm_eps = eps;
        }
        if project == Project::Timm && resolved.info.is_none() && (sidecar.heads, sidecar.statistics) == (None, None) {
            resolved.warning = Some(assumed_timm(path, &resolved.config, overrides));
        }
        let origin = if sidecar.norm_eps.is_some() { "config.json" } else { "the file or its project" };
        resolved.note("norms' epsilon", format!("{:e}", resolved.config.norm_eps), origin);
        let origin = if resolved.info.is_some() || sidecar.pooling.is_some() { "the file" } else { "its project" };
        resolved.note("pooling", resolved.pooling.name(), origin);
        resolved.check(path, overrides.scope())?;
        Ok(resolved)
    }

    /// Describes a foreign checkpoint's backbone.
    pub fn foreign_info(&self, project: Project) -> Info {
        Info { license: project.license().map(str::to_string), ..Info::new(&self.config, project.name(), self.pooling) }
    }

    /// Returns up to `most` reasons why the tensors are not those of the model: parameters that are
    /// missing or have the wrong shape, tensors that the model does not have. Runs before anything
    /// is allocated by the sizes in the file.
    pub fn shape_errors(&self, map: &TensorMap<'_>, most: usize) -> Vec<String> {
        let model = self.config.name();
        let mut errors = Vec::new();
        let mut expected_names = BTreeSet::new();
        for (name, mut expected) in self.config.parameters() {
            if errors.len() >= most {
                return errors;
            }
            let stored = match (map.stored_name(&name), map.qkv_parts(&name)) {
                (Some(whole), _) => vec![whole],
                (None, Some(parts)) => {
                    expected[0] /= 3;
                    parts.to_vec()
                }
                (None, None) if map.lacks_bias(&name) => Vec::new(),
                (None, None) => {
                    errors.push(format!("has no tensor `{name}` (timm's name), so it is not a whole {model}{}", map.skipped_types()));
                    Vec::new()
                }
            };
            for stored in stored {
                let shape = map.stored_shape(stored);
                // The rows of the positions have been checked with the sizes.
                let fits = if name == "pos_embed" { shape.last() == expected.last() } else { shape == expected };
                if !fits {
                    errors.push(format!("`{}` is {shape:?} where {model} needs {expected:?}", printable(stored)));
                }
            }
            expected_names.insert(name);
        }
        let room = most.saturating_sub(errors.len());
        let surplus = map.parameters().filter(|name| !expected_names.contains(*name)).take(room);
        errors.extend(surplus.map(|name| format!("has `{name}` (timm's name), which is not a parameter of {model}")));
        errors
    }

    fn resolve_heads(&mut self, project: Project, sidecar: &Sidecar, overrides: &BackboneOverrides) {
        let (width, depth) = (self.config.width, self.config.depth);
        let set = overrides.heads.map(|heads| (heads, "the setting".to_string()));
        let metadata = self.info.as_ref().map(|info| (info.model.heads, "the file's metadata".to_string()));
        let sidecar = sidecar.heads.map(|heads| (heads, "config.json".to_string()));
        let heads = set.or(metadata).or(sidecar).or_else(|| project.heads(width, depth));
        self.config.heads = heads.as_ref().map_or(0, |(heads, _)| *heads);
        match heads {
            Some((heads, origin)) => self.note("heads", heads, origin),
            None => self.unresolved.push(format!(
                "model.heads: neither the shapes nor the project ({}) determine the heads of a ViT of width {width} \
                 (MoCo v3's ViT-S has 12, timm's and DINO's 6)",
                project.name()
            )),
        }
    }

    fn resolve_statistics(&mut self, project: Project, sidecar: &Sidecar, overrides: &BackboneOverrides) {
        let metadata = self.info.as_ref().map(|info| ((info.model.mean, info.model.std), "the file's metadata"));
        let known = metadata
            .or(sidecar.statistics.map(|statistics| (statistics, "the configuration next to it")))
            .or(project.statistics().map(|statistics| (statistics, "its project")));
        let both_set = overrides.mean.zip(overrides.std).is_some();
        if known.is_none() && !both_set {
            self.unresolved.push(format!(
                "data.mean and data.std: neither the file nor the project ({}) determines how its images were normalized",
                project.name()
            ));
        }
        let ((mean, std), origin) = known.unwrap_or(((self.config.mean, self.config.std), ""));
        self.config.mean = overrides.mean.unwrap_or(mean);
        self.config.std = overrides.std.unwrap_or(std);
        if known.is_some() || both_set {
            let origin = if overrides.mean.or(overrides.std).is_some() { "the setting" } else { origin };
            self.note("mean", format!("{:?}", self.config.mean), origin);
            self.note("std", format!("{:?}", self.config.std), origin);
        }
    }

    fn note(&mut self, property: &'static str, value: impl ToString, origin: impl ToString) {
        self.provenance.push(Provenance { property, value: value.to_string(), origin: origin.to_string() });
    }

    fn check(&self, path: &Path, scope: &str) -> Result<(), Error> {
        let VitConfig { heads, width, mean, std, norm_eps, .. } = self.config;
        let heads_known = !self.unresolved.iter().any(|setting| setting.starts_with("model.heads"));
        if heads_known && (heads == 0 || !width.is_multiple_of(heads)) {
            return Err(Error::Setting(format!(
                "{}: {heads} heads do not divide a width of {width}; set {scope}model.heads",
                path.display()
            )));
        }
        if !std.iter().all(|s| *s > 0.0 && s.is_finite()) || !mean.iter().all(|m| m.is_finite()) {
            let what = format!("data.mean={mean:?} and data.std={std:?} must be finite, and data.std above 0");
            return Err(Error::Setting(format!("{}: {what}", path.display())));
        }
        if !(norm_eps > 0.0 && norm_eps.is_finite()) {
            return Err(Error::file(path, format!("has norms with an epsilon of {norm_eps}; it must be a number above 0")));
        }
        Ok(())
    }
}

/// Parses the metadata of a file of this program.
fn parse_metadata(path: &Path, json: &str) -> Result<Info, Error> {
    serde_json::from_str(json).map_err(|e| Error::file(path, format!("its metadata cannot be parsed ({e}); export the backbone again")))
}

/// Checks that the sizes in the metadata, by which memory is allocated, are those of the tensors.
fn check_against_metadata(path: &Path, info: &Info, tensors: &VitConfig) -> Result<(), Error> {
    let sizes = |c: &VitConfig| (c.width, c.depth, c.mlp, c.patch, c.image, c.registers, c.layer_scale != 0.0);
    if sizes(&info.model) != sizes(tensors) {
        let (metadata, tensors) = (info.model.name(), tensors.name());
        return Err(Error::file(path, format!("its metadata describe a {metadata}, its tensors a {tensors}; export the backbone again")));
    }
    Ok(())
}

/// Determines a model's sizes and the rows of its positions from the shapes. `image` (pixels)
/// selects a grid if the positions fit several.
fn sizes(map: &TensorMap<'_>, image: Option<usize>) -> Result<(VitConfig, PositionRows), String> {
    let Some(&[width, channels, patch, patch_width]) = map.shape("patch_embed.proj.weight") else {
        return Err("has a patch embedding that is not [width, 3, patch, patch]; it is not a ViT's checkpoint".into());
    };
    if channels != 3 || patch != patch_width || patch == 0 || width == 0 {
        return Err(format!(
            "embeds patches of {patch}x{patch_width} and {channels} channels; this program supports square patches of three channels"
        ));
    }
    if map.stored_name("cls_token").is_none() {
        return Err("has no class token (`cls_token`); this program supports ViTs with one".into());
    }
    let Some(&[1, rows, _]) = map.shape("pos_embed") else {
        return Err("has no position embeddings [1, tokens, width] (`pos_embed`); this program supports ViTs with them".into());
    };
    let Some(&[mlp, _]) = map.shape("blocks.0.mlp.fc1.weight") else {
        let what = "has no tensor `blocks.0.mlp.fc1.weight` (timm's name), so it is not a whole ViT";
        return Err(format!("{what}{}", map.skipped_types()));
    };
    let registers = match map.shape("reg_token") {
        None => 0,
        Some(&[1, registers, _]) if registers > 0 => registers,
        Some(shape) => return Err(format!("its registers are {shape:?} where [1, registers, width] is needed")),
    };
    let depth = (0..).take_while(|i| map.stored_name(&format!("blocks.{i}.norm1.weight")).is_some()).count();
    let (grid, positions) = grid(rows, registers, patch, image)?;
    if map.shape("blocks.0.mlp.fc2.weight").is_some_and(|fc2| fc2 == [width, mlp / 2] && mlp % 2 == 0) {
        return Err(SWIGLU.into());
    }
    let layer_scale = if map.parameters().any(|name| name.ends_with(".gamma")) { 1.0 } else { 0.0 };
    let config = VitConfig { registers, layer_scale, ..VitConfig::plain(width, depth, mlp, patch, grid * patch) };
    Ok((config, positions))
}

/// Returns the side of the grid of patches, in patches, that `rows` position embeddings are for.
fn grid(rows: usize, registers: usize, patch: usize, image: Option<usize>) -> Result<(usize, PositionRows), String> {
    let side = |patches: Option<usize>| patches.map(usize::isqrt).filter(|&side| side > 0 && Some(side * side) == patches);
    let candidates = [
        (rows.checked_sub(1), PositionRows::ClassAndPatches),
        (Some(rows), PositionRows::Patches),
        (rows.checked_sub(1 + registers).filter(|_| registers > 0), PositionRows::All),
    ];
    let mut fitting: Vec<_> = candidates.into_iter().filter_map(|(patches, kind)| Some((side(patches)?, kind))).collect();
    if fitting.len() > 1
        && let Some(image) = image
    {
        fitting.retain(|(side, _)| side * patch == image);
    }
    match fitting[..] {
        [only] => Ok(only),
        [] => Err(format!("its {rows} positions are not a square grid of patches with a class token; this program supports square images")),
        _ => {
            let sizes: Vec<String> = fitting.iter().map(|(side, _)| (side * patch).to_string()).collect();
            Err(format!("its {rows} positions fit images of {} px; set model.image_size", sizes.join(" or ")))
        }
    }
}

/// Warns that a file with timm's names and no metadata is read as one of timm's.
fn assumed_timm(path: &Path, config: &VitConfig, overrides: &BackboneOverrides) -> String {
    format!(
        "{}: no metadata, so read as timm's: {} heads{}, {} mean and std; if another project wrote it, set model.heads, data.mean and \
         data.std (with the prefix `teacher.` for a teacher); MoCo v3's ViT-S has 12 heads",
        path.display(),
        config.heads,
        if overrides.heads.is_some() { " (set)" } else { "" },
        if overrides.mean.or(overrides.std).is_some() { "set" } else { "ImageNet's" }
    )
}
