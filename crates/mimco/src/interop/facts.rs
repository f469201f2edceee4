//! What a checkpoint's model is: sizes by its tensors' shapes, the rest by settings, by metadata, by the files beside it, or by what is known of its
//! source, in this order. What none of them tells stays open, and is asked for by name.

use super::backbone::{BackboneOverrides, Info, KEY};
use super::beside::Beside;
use super::layout::{Fate, Layout, shown};
use super::sources::Source;
use super::weights::Weights;
use crate::Error;
use crate::evaluation::features::FeatureKind;
use crate::models::vit::VitConfig;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A fact and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Said {
    /// Of what.
    pub what: &'static str,
    /// Itself.
    pub value: String,
    /// Its source.
    pub whence: String,
}

/// Which rows a file's position embeddings have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PositionRows {
    /// The class token and the patches.
    ClassAndPatches,
    /// The patches alone (timm's `no_embed_class`).
    Patches,
    /// The class token, the registers and the patches.
    All,
}

/// All that is known of a checkpoint's backbone.
pub struct Facts {
    /// Its sizes as the file has them; 0 heads where nothing tells them.
    pub config: VitConfig,
    /// What the file says of itself.
    pub info: Option<Info>,
    /// Rows of its position embeddings.
    pub positions: PositionRows,
    /// Pooling of the feature that was trained.
    pub pooling: FeatureKind,
    /// What it is and how that is known, for people.
    pub said: Vec<Said>,
    /// Settings without which it cannot be run, each with the reason.
    pub open: Vec<String>,
    /// What was taken without anybody's word for it.
    pub warning: Option<String>,
}

/// The tensors of a file by their parameters' names here.
pub struct Found<'a> {
    whole: BTreeMap<&'a str, &'a str>,
    /// Parameters that the file has as q, k and v.
    thirds: BTreeMap<&'a str, [Option<&'a str>; 3]>,
    weights: &'a Weights,
}

impl<'a> Found<'a> {
    /// # Errors
    /// Where two tensors of the file are the same parameter.
    pub fn new(weights: &'a Weights, layout: &'a Layout) -> Result<Found<'a>, Error> {
        let mut found = Found { whole: BTreeMap::new(), thirds: BTreeMap::new(), weights };
        for (theirs, fate) in &layout.keys {
            let (ours, other) = match fate {
                Fate::Is(ours) => (ours, found.whole.insert(ours, theirs)),
                Fate::Third(ours, which) => (ours, found.thirds.entry(ours).or_default()[*which].replace(theirs)),
                Fate::Dropped(_) => continue,
            };
            if let Some(other) = other {
                let what = format!("`{}` and `{}` are both `{ours}`; it is not one model's checkpoint", shown(other), shown(theirs));
                return Err(Error::file(weights.path(), what));
            }
        }
        Ok(found)
    }

    /// Name in the file.
    pub fn name(&self, ours: &str) -> Option<&'a str> {
        self.whole.get(ours).copied()
    }

    /// Names in the file of q, k and v, where it has these apart.
    pub fn thirds(&self, ours: &str) -> Option<[&'a str; 3]> {
        match self.thirds.get(ours)? {
            [Some(q), Some(k), Some(v)] => Some([q, k, v]),
            _ => None,
        }
    }

    /// All parameters that the file has, or has parts of.
    pub fn parameters(&self) -> impl Iterator<Item = &'a str> {
        self.whole.keys().chain(self.thirds.keys()).copied()
    }

    /// Shape in the file.
    pub fn shape(&self, ours: &str) -> Option<&'a [usize]> {
        Some(&self.weights.tensors.get(self.name(ours)?)?.shape)
    }
}

impl Facts {
    /// What the model in a file is.
    ///
    /// # Errors
    /// Shapes that are no ViT's, metadata or configurations that cannot be read, or that contradict the tensors.
    pub fn of(weights: &Weights, layout: &Layout, overrides: &BackboneOverrides) -> Result<Facts, Error> {
        let (path, source) = (weights.path(), layout.source);
        let (found, positions) = sizes(&Found::new(weights, layout)?).map_err(|what| Error::file(path, what))?;
        let info = weights.texts.get(KEY).map(|json| told(path, json, &found)).transpose()?;
        let beside = if info.is_some() { Beside::default() } else { Beside::read(path, source)? };
        let mut facts = Facts {
            config: info.as_ref().map_or(found, |info| info.model.clone()),
            pooling: info.as_ref().map_or(FeatureKind::Class, |info| info.pooling),
            info,
            positions,
            said: vec![Said { what: "layout", value: source.name().into(), whence: "the tensors' names".into() }],
            open: Vec::new(),
            warning: None,
        };
        facts.take_heads(source, &beside, overrides);
        facts.take_statistics(source, &beside, overrides);
        if let Some(eps) = beside.norm_eps {
            facts.config.norm_eps = eps;
        }
        if source == Source::Timm && facts.info.is_none() && (beside.heads, beside.statistics) == (None, None) {
            facts.warning = Some(as_timms(path, &facts.config, overrides));
        }
        facts.check(path)?;
        Ok(facts)
    }

    fn take_heads(&mut self, source: Source, beside: &Beside, overrides: &BackboneOverrides) {
        let (width, depth) = (self.config.width, self.config.depth);
        let told = self.info.as_ref().map(|info| (info.model.heads, "the file's metadata".to_string()));
        let heads = overrides.heads.map(|heads| (heads, "the setting".to_string())).or(told);
        let heads = heads.or(beside.heads.map(|heads| (heads, "config.json".to_string()))).or_else(|| source.heads(width, depth));
        self.config.heads = heads.as_ref().map_or(0, |(heads, _)| *heads);
        match heads {
            Some((heads, whence)) => self.say("heads", heads, whence),
            None => self.open.push(format!(
                "model.heads: {} does not tell how many heads a ViT {width} wide has, and shapes do not (MoCo v3's ViT-S has 12, timm's and DINO's 6)",
                source.name()
            )),
        }
    }

    fn take_statistics(&mut self, source: Source, beside: &Beside, overrides: &BackboneOverrides) {
        let told = self.info.as_ref().map(|info| ((info.model.mean, info.model.std), "the file's metadata"));
        let known = told
            .or(beside.statistics.map(|statistics| (statistics, "the configuration beside it")))
            .or(source.statistics().map(|statistics| (statistics, "what its source trains with")));
        if known.is_none() && overrides.mean.zip(overrides.std).is_none() {
            self.open.push(format!("data.mean and data.std: {} does not tell how its images were normalised", source.name()));
        }
        let ((mean, std), whence) = known.unwrap_or(((self.config.mean, self.config.std), ""));
        self.config.mean = overrides.mean.unwrap_or(mean);
        self.config.std = overrides.std.unwrap_or(std);
        if known.is_some() || overrides.mean.zip(overrides.std).is_some() {
            let whence = if overrides.mean.or(overrides.std).is_some() { "the setting" } else { whence };
            self.say("mean", format!("{:?}", self.config.mean), whence);
            self.say("std", format!("{:?}", self.config.std), whence);
        }
    }

    fn say(&mut self, what: &'static str, value: impl ToString, whence: impl ToString) {
        self.said.push(Said { what, value: value.to_string(), whence: whence.to_string() });
    }

    fn check(&self, path: &Path) -> Result<(), Error> {
        let VitConfig { heads, width, mean, std, norm_eps, .. } = self.config;
        let told_heads = !self.open.iter().any(|open| open.starts_with("model.heads"));
        if told_heads && (heads == 0 || !width.is_multiple_of(heads)) {
            return Err(Error::Setting(format!("{}: {heads} heads do not divide a width of {width}; set model.heads", path.display())));
        }
        if !std.iter().all(|s| *s > 0.0 && s.is_finite()) || !mean.iter().all(|m| m.is_finite()) {
            return Err(Error::Setting(format!("{}: data.mean={mean:?} and data.std={std:?}: finite, data.std above 0", path.display())));
        }
        if !(norm_eps > 0.0 && norm_eps.is_finite()) {
            return Err(Error::file(path, format!("has norms with an epsilon of {norm_eps}; it must be a number above 0")));
        }
        Ok(())
    }
}

/// Metadata of this program, whose sizes must be the tensors': a file's word for them would be allocated before it is found false.
fn told(path: &Path, json: &str, found: &VitConfig) -> Result<Info, Error> {
    let info: Info = serde_json::from_str(json)
        .map_err(|e| Error::file(path, format!("its metadata cannot be read ({e}); export the backbone again")))?;
    let sizes = |c: &VitConfig| (c.width, c.depth, c.mlp, c.patch, c.image, c.registers, c.layer_scale != 0.0);
    if sizes(&info.model) != sizes(found) {
        let what = format!("its metadata says {}, its tensors are a {}; export the backbone again", info.model.name(), found.name());
        return Err(Error::file(path, what));
    }
    Ok(info)
}

/// Sizes from shapes.
fn sizes(found: &Found<'_>) -> Result<(VitConfig, PositionRows), String> {
    let Some(&[width, channels, patch, patch_too]) = found.shape("patch_embed.proj.weight") else {
        return Err("has a patch embedding that is not [width, 3, patch, patch]; it is not a ViT's checkpoint".into());
    };
    if channels != 3 || patch != patch_too || patch == 0 || width == 0 {
        return Err(format!(
            "embeds patches of {patch}x{patch_too} and {channels} channels; this program takes square patches of three channels"
        ));
    }
    if found.name("cls_token").is_none() {
        return Err("has no class token (`cls_token`); this program runs ViTs with one".into());
    }
    let Some(&[1, rows, _]) = found.shape("pos_embed") else {
        return Err("has no position embeddings [1, tokens, width] (`pos_embed`); this program runs ViTs with them".into());
    };
    let Some(&[mlp, _]) = found.shape("blocks.0.mlp.fc1.weight") else {
        return Err("has no `blocks.0.mlp.fc1.weight` (as timm calls it); it is not a whole ViT".into());
    };
    let registers = match found.shape("reg_token") {
        None => 0,
        Some(&[1, registers, _]) if registers > 0 => registers,
        Some(shape) => return Err(format!("its registers are {shape:?} where [1, registers, width] is needed")),
    };
    let depth = (0..).take_while(|i| found.name(&format!("blocks.{i}.norm1.weight")).is_some()).count();
    let grid = |patches: Option<usize>| patches.map(usize::isqrt).filter(|&grid| grid > 0 && Some(grid * grid) == patches);
    let with_class = grid(rows.checked_sub(1)).map(|grid| (grid, PositionRows::ClassAndPatches));
    let alone = grid(Some(rows)).map(|grid| (grid, PositionRows::Patches));
    let with_all = grid(rows.checked_sub(1 + registers)).map(|grid| (grid, PositionRows::All));
    let Some((grid, positions)) = with_class.or(alone).or(with_all) else {
        return Err(format!("its {rows} positions are no square grid of patches with a class token; this program takes square images"));
    };
    let layer_scale = if found.name("blocks.0.ls1.gamma").is_some() { 1.0 } else { 0.0 };
    let config = VitConfig { registers, layer_scale, ..VitConfig::plain(width, depth, mlp, patch, grid * patch) };
    Ok((config, positions))
}

/// A file with timm's names and nobody's word is taken as timm's, which is said.
fn as_timms(path: &Path, config: &VitConfig, overrides: &BackboneOverrides) -> String {
    format!(
        "{}: no metadata, so taken as timm's: {} heads{}, {} mean and deviation; set model.heads, data.mean, data.std (behind `teacher.` for a \
         teacher) if it is somebody else's (MoCo v3's ViT-S has 12 heads)",
        path.display(),
        config.heads,
        if overrides.heads.is_some() { " (set)" } else { "" },
        if overrides.mean.or(overrides.std).is_some() { "set" } else { "ImageNet" }
    )
}
