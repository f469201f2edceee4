//! What a checkpoint's model is: sizes by its tensors' shapes, the rest by settings, by metadata, by the files beside it, or by what is known of its
//! source, in this order. What none of them tells stays open, and is asked for by name.

use super::backbone::{BackboneOverrides, Info, KEY};
use super::beside::Beside;
use super::layout::{Fate, Layout, shown};
use super::refusals::SWIGLU;
use super::sources::Source;
use super::weights::Weights;
use crate::Error;
use crate::evaluation::features::FeatureKind;
use crate::models::vit::VitConfig;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const QKV_BIAS: &str = "attn.qkv.bias";

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
    has_qkv_bias: bool,
    weights: &'a Weights,
}

impl<'a> Found<'a> {
    /// # Errors
    /// Where two tensors of the file are the same parameter.
    pub fn new(weights: &'a Weights, layout: &'a Layout) -> Result<Found<'a>, Error> {
        let mut found = Found { whole: BTreeMap::new(), thirds: BTreeMap::new(), has_qkv_bias: false, weights };
        for (theirs, fate) in &layout.keys {
            let (ours, other) = match fate {
                Fate::Is(ours) => (ours, found.whole.insert(ours, theirs)),
                Fate::Third(ours, which) => (ours, found.thirds.entry(ours).or_default()[*which].replace(theirs)),
                Fate::Dropped(_) => continue,
            };
            found.has_qkv_bias |= ours.ends_with(QKV_BIAS);
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

    /// Whether it is the bias of q, k and v in a model without such biases: zeros.
    pub fn lacks_bias(&self, ours: &str) -> bool {
        ours.ends_with(QKV_BIAS) && !self.has_qkv_bias
    }

    /// What of the file's tensors was passed over, for whoever misses one.
    fn left_out(&self) -> String {
        let types = self.weights.left_out.iter().filter(|(what, _)| !what.contains('.'));
        let types: Vec<String> = types.map(|(what, count)| format!("{count} of {}", shown(what))).collect();
        if types.is_empty() { String::new() } else { format!(" (tensors of types that are not read: {})", types.join(", ")) }
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
        let info = weights.texts.get(KEY).map(|json| told(path, json)).transpose()?;
        let image = info.as_ref().map(|info| info.model.image).or(overrides.image_size);
        let (found, positions) = sizes(&Found::new(weights, layout)?, image).map_err(|what| Error::file(path, what))?;
        info.iter().try_for_each(|info| agreed(path, info, &found))?;
        let beside = if info.is_some() { Beside::default() } else { Beside::read(path, source, &found)? };
        let mut facts = Facts {
            config: info.as_ref().map_or(found, |info| info.model.clone()),
            pooling: info.as_ref().map(|info| info.pooling).or(beside.pooling).unwrap_or(FeatureKind::Class),
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
        facts.say(
            "norms' epsilon",
            format!("{:e}", facts.config.norm_eps),
            if beside.norm_eps.is_some() { "config.json" } else { "the file or its source" },
        );
        facts.say(
            "pooling",
            format!("{:?}", facts.pooling).to_lowercase(),
            if facts.info.is_some() || beside.pooling.is_some() { "the file" } else { "its source" },
        );
        facts.check(path, overrides.scope())?;
        Ok(facts)
    }

    /// What keeps the tensors from being the model, before anything is allocated by what shapes say: a parameter that is missing or
    /// misshapen, a tensor that the model has no place for; `most` of them.
    pub(super) fn faults(&self, found: &Found<'_>, most: usize) -> Vec<String> {
        let model = self.config.name();
        let mut faults = Vec::new();
        let mut wanted_names = BTreeSet::new();
        for (name, mut wanted) in self.config.parameters() {
            if faults.len() >= most {
                return faults;
            }
            let theirs = match (found.name(&name), found.thirds(&name)) {
                (Some(whole), _) => vec![whole],
                (None, Some(thirds)) => {
                    wanted[0] /= 3;
                    thirds.to_vec()
                }
                (None, None) if found.lacks_bias(&name) => Vec::new(),
                (None, None) => {
                    faults.push(format!("has no tensor `{name}` (as timm calls it); it is not a whole {model}{}", found.left_out()));
                    Vec::new()
                }
            };
            for theirs in theirs {
                let told = &found.weights.tensors[theirs].shape;
                // Positions' rows were looked at when the sizes were.
                let fits = if name == "pos_embed" { told.last() == wanted.last() } else { *told == wanted };
                if !fits {
                    faults.push(format!("`{}` is {told:?} where {model} needs {wanted:?}", shown(theirs)));
                }
            }
            wanted_names.insert(name);
        }
        if faults.len() >= most {
            return faults;
        }
        let surplus = found.parameters().filter(|name| !wanted_names.contains(*name));
        let room = most.saturating_sub(faults.len());
        faults.extend(
            surplus
                .take(room)
                .map(|name| format!("has `{name}` (as timm calls it), for which {model} has no place; it is not a whole ViT")),
        );
        faults
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

    fn check(&self, path: &Path, scope: &str) -> Result<(), Error> {
        let VitConfig { heads, width, mean, std, norm_eps, .. } = self.config;
        let told_heads = !self.open.iter().any(|open| open.starts_with("model.heads"));
        if told_heads && (heads == 0 || !width.is_multiple_of(heads)) {
            return Err(Error::Setting(format!(
                "{}: {heads} heads do not divide a width of {width}; set {scope}model.heads",
                path.display()
            )));
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

/// Metadata of this program.
fn told(path: &Path, json: &str) -> Result<Info, Error> {
    serde_json::from_str(json).map_err(|e| Error::file(path, format!("its metadata cannot be read ({e}); export the backbone again")))
}

/// Its sizes must be the tensors': a file's word for them would be allocated before it is found false.
fn agreed(path: &Path, info: &Info, found: &VitConfig) -> Result<(), Error> {
    let sizes = |c: &VitConfig| (c.width, c.depth, c.mlp, c.patch, c.image, c.registers, c.layer_scale != 0.0);
    if sizes(&info.model) != sizes(found) {
        let what = format!("its metadata says {}, its tensors are a {}; export the backbone again", info.model.name(), found.name());
        return Err(Error::file(path, what));
    }
    Ok(())
}

/// Sizes from shapes.
///
/// `image` settles which of several grids the positions are, where more than one fits.
fn sizes(found: &Found<'_>, image: Option<usize>) -> Result<(VitConfig, PositionRows), String> {
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
        return Err(format!("has no `blocks.0.mlp.fc1.weight` (as timm calls it); it is not a whole ViT{}", found.left_out()));
    };
    let registers = match found.shape("reg_token") {
        None => 0,
        Some(&[1, registers, _]) if registers > 0 => registers,
        Some(shape) => return Err(format!("its registers are {shape:?} where [1, registers, width] is needed")),
    };
    let depth = (0..).take_while(|i| found.name(&format!("blocks.{i}.norm1.weight")).is_some()).count();
    let grid = |patches: Option<usize>| patches.map(usize::isqrt).filter(|&grid| grid > 0 && Some(grid * grid) == patches);
    let fitting = [
        (rows.checked_sub(1), PositionRows::ClassAndPatches),
        (Some(rows), PositionRows::Patches),
        (rows.checked_sub(1 + registers).filter(|_| registers > 0), PositionRows::All),
    ];
    let mut fitting: Vec<_> = fitting.into_iter().filter_map(|(patches, kind)| Some((grid(patches)?, kind))).collect();
    if fitting.len() > 1
        && let Some(image) = image
    {
        fitting.retain(|(grid, _)| grid * patch == image);
    }
    let (grid, positions) = match fitting[..] {
        [only] => only,
        [] => {
            return Err(format!("its {rows} positions are no square grid of patches with a class token; this program takes square images"));
        }
        _ => {
            let sides: Vec<String> = fitting.iter().map(|(grid, _)| (grid * patch).to_string()).collect();
            return Err(format!("its {rows} positions fit images of {} px; set model.image_size", sides.join(" or ")));
        }
    };
    if found.shape("blocks.0.mlp.fc2.weight").is_some_and(|fc2| fc2 == [width, mlp / 2] && mlp % 2 == 0) {
        return Err(SWIGLU.into());
    }
    let layer_scale = if found.parameters().any(|name| name.ends_with(".gamma")) { 1.0 } else { 0.0 };
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
