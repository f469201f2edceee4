//! Layouts of tensor names: detects the project that wrote a checkpoint, and maps its names to this
//! program's, which are timm's.

use super::escape::printable;
use super::projects::Project;
use super::unsupported::{no_encoder, unknown_tensor, unsupported_encoder};
use super::weights::Weights;
use crate::Error;
use crate::interop::info::KEY;
use std::collections::BTreeSet;

/// Names of the first layer's weight. The text before such a name is an encoder's prefix.
const ANCHORS: [(&str, Family); 3] = [
    ("patch_embed.proj.weight", Family::Timm),
    ("patch_embed.projection.weight", Family::MmPretrain),
    ("embeddings.patch_embeddings.projection.weight", Family::HuggingFace),
];
/// Parts of the prefixes of encoders that are read only if the file has no other.
const SECONDARY: [&str; 4] = ["momentum_encoder.", "encoder_k.", "student", "momentum"];

/// Naming scheme of an encoder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    Timm,
    MmPretrain,
    HuggingFace,
}

/// Use of a tensor of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyMapping {
    /// The tensor is the parameter with this name.
    Parameter(String),
    /// The tensor is q (0), k (1) or v (2) of the parameter with this name.
    QkvPart(String, usize),
    /// The tensor is not read, for this reason.
    Ignored(&'static str),
}

/// Project that wrote a file, and the use of each of its tensors.
pub struct Layout {
    /// Project that wrote the file.
    pub project: Project,
    /// Prefix of the encoder's names.
    pub prefix: String,
    /// Number of encoders in the file.
    pub encoders: usize,
    /// Names in the file, in their order, and the use of each tensor.
    pub keys: Vec<(String, KeyMapping)>,
}

impl Layout {
    /// Detects the layout of a file. `encoder` is a part of the prefix of the encoder to read, for
    /// files with several.
    ///
    /// # Errors
    /// A file without a ViT, a model of an unsupported kind, or an unknown tensor in the encoder.
    pub fn detect(weights: &Weights, encoder: Option<&str>) -> Result<Layout, Error> {
        let names: BTreeSet<&str> = weights.tensors.keys().map(String::as_str).collect();
        let fail = |what: String| Error::file(weights.path(), what);
        let (prefix, family, encoders) = choose_encoder(weights, &names, encoder).map_err(fail)?;
        if let Some(what) = unsupported_encoder(names.iter().filter_map(|name| name.strip_prefix(prefix.as_str()))) {
            return Err(fail(what));
        }
        let project = detect_project(weights, &names, &prefix, family);
        let has_norm = names.contains(format!("{prefix}norm.weight").as_str());
        let mut keys = Vec::new();
        for name in &names {
            let mapping = match name.strip_prefix(prefix.as_str()) {
                None => KeyMapping::Ignored(outside_encoder(name)),
                Some(rest) => match family {
                    Family::Timm => map_timm(rest, has_norm),
                    Family::MmPretrain => map_mmpretrain(rest),
                    Family::HuggingFace => map_hugging_face(rest),
                }
                .or_else(|| ignored_in_encoder(rest))
                .ok_or_else(|| fail(unknown_tensor(name, rest)))?,
            };
            keys.push((name.to_string(), mapping));
        }
        Ok(Layout { project, prefix, encoders, keys })
    }
}

/// Chooses the encoder to read; returns its prefix, its naming scheme and the number of encoders.
fn choose_encoder(weights: &Weights, names: &BTreeSet<&str>, encoder: Option<&str>) -> Result<(String, Family, usize), String> {
    let mut found: Vec<(&str, Family)> = Vec::new();
    for name in names {
        for (anchor, family) in ANCHORS {
            if let Some(prefix) = name.strip_suffix(anchor).filter(|prefix| prefix.is_empty() || prefix.ends_with(['.', '/'])) {
                found.push((prefix, family));
            }
        }
    }
    if weights.texts.contains_key(KEY) && found.iter().any(|(prefix, _)| prefix.starts_with("parameter.")) {
        // A checkpoint of this program: the optimizer's moments have the parameters' names, too.
        found.retain(|(prefix, _)| prefix.starts_with("parameter."));
    }
    let encoders = found.len();
    if found.is_empty() {
        return Err(no_encoder(weights.path(), names));
    }
    let list = |found: &[(&str, Family)]| found.iter().map(|(prefix, _)| printable(prefix)).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = encoder {
        let all = list(&found);
        found.retain(|(prefix, _)| prefix.contains(wanted));
        if found.is_empty() {
            return Err(format!("has no encoder `{}`; the prefixes of its encoders are: {all}", printable(wanted)));
        }
    }
    // timm also prefers averaged weights.
    let averaged = |prefix: &str| prefix.starts_with("state_dict_ema/") || prefix.starts_with("model_ema/");
    if found.iter().any(|(prefix, _)| averaged(prefix)) {
        found.retain(|(prefix, _)| averaged(prefix));
    }
    let secondary = |prefix: &str| SECONDARY.iter().any(|word| prefix.contains(word));
    if found.iter().any(|(prefix, _)| !secondary(prefix)) {
        found.retain(|(prefix, _)| !secondary(prefix));
    }
    // mmselfsup stores MoCo v3's encoder under two names.
    if found.iter().any(|(prefix, _)| prefix.ends_with("backbone.")) {
        found.retain(|(prefix, _)| prefix.ends_with("backbone."));
    }
    match found[..] {
        [(prefix, family)] => Ok((prefix.to_string(), family, encoders)),
        _ => Err(format!("contains several encoders, with the prefixes: {}; set model.encoder to a part of one", list(&found))),
    }
}

/// Detects the project by evidence in the names.
fn detect_project(weights: &Weights, names: &BTreeSet<&str>, prefix: &str, family: Family) -> Project {
    let has = |rest: &str| names.contains(format!("{prefix}{rest}").as_str());
    let any = |part: &str| names.iter().any(|name| name.contains(part));
    let scaled = names.iter().any(|name| name.starts_with(prefix) && name.ends_with(".ls1.gamma"));
    match family {
        _ if weights.texts.contains_key(KEY) => Project::Native,
        Family::MmPretrain => Project::MmPretrain { moco: any("momentum_encoder."), supervised: any("head.layers.") && !any("neck.") },
        Family::HuggingFace if any("layer_scale1.") => Project::HuggingFaceDinoV2,
        Family::HuggingFace => Project::HuggingFaceVit,
        Family::Timm if prefix.contains("base_encoder.") || prefix.contains("momentum_encoder.") => Project::MocoV3,
        Family::Timm if any("masked_embed") => Project::Ibot,
        Family::Timm if has("register_tokens") || scaled && (has("mask_token") || prefix.contains("backbone.")) => Project::DinoV2,
        Family::Timm if prefix.starts_with("teacher/") || prefix.starts_with("student/") => {
            // Other distillation methods have a teacher and a student, too.
            if any("head.last_layer.") || any("head.mlp.") { Project::Dino } else { Project::Unknown }
        }
        Family::Timm if any("decoder_embed.") => Project::Mae,
        Family::Timm if prefix.ends_with("encoder.") || prefix.ends_with("encoder_k.") => {
            if any("encoder_k.") {
                Project::Moby
            } else {
                Project::Unknown
            }
        }
        Family::Timm if weights.texts.contains_key("best_acc1") || names.contains("best_acc1") => Project::Classifier,
        Family::Timm if prefix.contains("backbone.") => Project::Unknown,
        Family::Timm => Project::Timm,
    }
}

/// Maps timm's names, DINOv2's name of the registers and its names of blocks in chunks.
fn map_timm(name: &str, has_norm: bool) -> Option<KeyMapping> {
    match name {
        "cls_token" | "pos_embed" | "reg_token" | "patch_embed.proj.weight" | "patch_embed.proj.bias" | "norm.weight" | "norm.bias" => {
            return Some(KeyMapping::Parameter(name.into()));
        }
        "register_tokens" => return Some(KeyMapping::Parameter("reg_token".into())),
        // Next to a final norm, this one is the classifier's.
        "fc_norm.weight" | "fc_norm.bias" if has_norm => return Some(KeyMapping::Ignored("the classifier's norm")),
        _ => {}
    }
    let mut parts: Vec<&str> = name.strip_prefix("blocks.")?.splitn(3, '.').collect();
    if parts.len() == 3 && number(parts[1]).is_some() {
        parts.remove(0); // the chunk; block numbers continue from chunk to chunk
    }
    let block = number(parts[0])?;
    let rest = parts[1..].join(".");
    let known = [
        "norm1.weight",
        "norm1.bias",
        "attn.qkv.weight",
        "attn.qkv.bias",
        "attn.proj.weight",
        "attn.proj.bias",
        "ls1.gamma",
        "norm2.weight",
        "norm2.bias",
        "mlp.fc1.weight",
        "mlp.fc1.bias",
        "mlp.fc2.weight",
        "mlp.fc2.bias",
        "ls2.gamma",
    ];
    known.contains(&rest.as_str()).then(|| KeyMapping::Parameter(format!("blocks.{block}.{rest}")))
}

/// Parses a decimal number without leading zeros.
fn number(text: &str) -> Option<usize> {
    text.parse().ok().filter(|n: &usize| n.to_string() == text)
}

/// Splits `{prefix}N.part.kind` into the block's number and timm's name. `parts` maps the parts of
/// other projects to timm's.
fn block_part(name: &str, prefix: &str, parts: &[(&str, &str)]) -> Option<(usize, String)> {
    let (block, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    let block = number(block)?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (_, timm) = parts.iter().find(|(other, _)| *other == part)?;
    let kind = if timm.starts_with("ls") { "gamma" } else { kind };
    Some((block, format!("blocks.{block}.{timm}.{kind}")))
}

/// Maps the names of mmpretrain, mmselfsup and mmcls.
fn map_mmpretrain(name: &str) -> Option<KeyMapping> {
    const PARTS: [(&str, &str); 8] = [
        ("ln1", "norm1"),
        ("attn.qkv", "attn.qkv"),
        ("attn.proj", "attn.proj"),
        ("attn.gamma1", "ls1"),
        ("ln2", "norm2"),
        ("ffn.layers.0.0", "mlp.fc1"),
        ("ffn.layers.1", "mlp.fc2"),
        ("ffn.gamma2", "ls2"),
    ];
    Some(KeyMapping::Parameter(match name {
        "cls_token" | "pos_embed" => name.into(),
        "patch_embed.projection.weight" => "patch_embed.proj.weight".into(),
        "patch_embed.projection.bias" => "patch_embed.proj.bias".into(),
        "ln1.weight" => "norm.weight".into(),
        "ln1.bias" => "norm.bias".into(),
        _ => block_part(name, "layers.", &PARTS)?.1,
    }))
}

/// Maps the names of Hugging Face's models.
fn map_hugging_face(name: &str) -> Option<KeyMapping> {
    const PARTS: [(&str, &str); 12] = [
        ("layernorm_before", "norm1"),
        ("norm1", "norm1"),
        ("attention.output.dense", "attn.proj"),
        ("attention.o_proj", "attn.proj"),
        ("layer_scale1", "ls1"),
        ("layernorm_after", "norm2"),
        ("norm2", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("mlp.fc1", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("mlp.fc2", "mlp.fc2"),
        ("layer_scale2", "ls2"),
    ];
    const QKV_PARTS: [(&str, &str); 6] = [
        ("attention.attention.query", "0"),
        ("attention.attention.key", "1"),
        ("attention.attention.value", "2"),
        ("attention.q_proj", "0"),
        ("attention.k_proj", "1"),
        ("attention.v_proj", "2"),
    ];
    Some(KeyMapping::Parameter(match name {
        "embeddings.cls_token" => "cls_token".into(),
        "embeddings.position_embeddings" => "pos_embed".into(),
        "embeddings.register_tokens" => "reg_token".into(),
        "embeddings.patch_embeddings.projection.weight" => "patch_embed.proj.weight".into(),
        "embeddings.patch_embeddings.projection.bias" => "patch_embed.proj.bias".into(),
        "layernorm.weight" => "norm.weight".into(),
        "layernorm.bias" => "norm.bias".into(),
        _ => {
            let rest = name.strip_prefix("encoder.").unwrap_or(name);
            let prefix = if rest.starts_with("layers.") { "layers." } else { "layer." };
            if let Some((block, part)) = block_part(rest, prefix, &QKV_PARTS) {
                let mut words = part.rsplit('.');
                let kind = words.next()?;
                return Some(KeyMapping::QkvPart(format!("blocks.{block}.attn.qkv.{kind}"), number(words.next()?)?));
            }
            block_part(rest, prefix, &PARTS)?.1
        }
    }))
}

/// Returns the reason why a tensor with the encoder's prefix is not read.
fn ignored_in_encoder(name: &str) -> Option<KeyMapping> {
    const WHY: [(&str, &str); 13] = [
        ("head.", "a classifier or projection head"),
        ("heads.", "a classifier or projection head"),
        ("fc.", "a classifier"),
        ("classifier.", "a classifier"),
        ("pre_logits.", "the classifier's hidden layer"),
        ("pooler.", "the classifier's hidden layer"),
        ("mask_token", "the mask token of its pre-training"),
        ("masked_embed", "the mask token of its pre-training"),
        ("embeddings.mask_token", "the mask token of its pre-training"),
        ("decoder", "the decoder of its pre-training"),
        ("head_dist.", "a classifier"),
        ("patch_head.", "a head of its pre-training"),
        ("image_head.", "a head of its pre-training"),
    ];
    WHY.iter().find(|(begin, _)| name.starts_with(begin)).map(|(_, why)| KeyMapping::Ignored(why))
}

/// Returns the reason why a tensor outside the encoder is not read.
fn outside_encoder(name: &str) -> &'static str {
    const WHY: [(&str, &str); 11] = [
        ("optimizer", "the optimizer"),
        ("exp_avg", "the optimizer"),
        ("momentum_encoder", "the momentum encoder"),
        ("encoder_k", "the momentum encoder"),
        ("student", "the student"),
        ("teacher", "the teacher"),
        ("predictor", "the predictor"),
        ("projector", "the projector"),
        ("queue", "the queue"),
        ("decoder", "the decoder"),
        ("head", "a head"),
    ];
    WHY.iter().find(|(part, _)| name.contains(part)).map_or("not part of the encoder", |(_, why)| why)
}
