//! Whose checkpoint a file is, by what stands in it, and what each of its tensors is called here, which is timm's name for it.

use super::refusals::{foreign, no_vit, unknown};
use super::sources::Source;
use super::weights::Weights;
use crate::Error;
use std::collections::BTreeSet;

/// The first layer's weight in the layouts of timm's kin, of mmpretrain and of Hugging Face; what stands before it is an encoder's prefix.
const ANCHORS: [(&str, Family); 3] = [
    ("patch_embed.proj.weight", Family::Timm),
    ("patch_embed.projection.weight", Family::MmPretrain),
    ("embeddings.patch_embeddings.projection.weight", Family::HuggingFace),
];
/// The encoders that are not taken where another is there, by a part of their prefix.
const SECOND: [&str; 4] = ["momentum_encoder.", "encoder_k.", "student", "momentum"];

/// Whose names a file has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    Timm,
    MmPretrain,
    HuggingFace,
}

/// What is to be done with a tensor of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is this parameter.
    Is(String),
    /// It is a third of this parameter: q, k or v.
    Third(String, usize),
    /// It is left out, and why.
    Dropped(&'static str),
}

/// Whose a file is, and its tensors' fates, by their names.
pub struct Layout {
    /// Who wrote such files.
    pub source: Source,
    /// What stands before the encoder's names.
    pub prefix: String,
    /// How many encoders the file holds.
    pub encoders: usize,
    /// Name in the file and fate, in the names' order.
    pub keys: Vec<(String, Fate)>,
}

impl Layout {
    /// Recognises a file. `encoder` is a part of the prefix of the encoder that is wanted, for files with several.
    ///
    /// # Errors
    /// What is no ViT, or one that cannot be run here, by name; a tensor of the encoder that is not known.
    pub fn of(weights: &Weights, encoder: Option<&str>) -> Result<Layout, Error> {
        let names: BTreeSet<&str> = weights.tensors.keys().map(String::as_str).collect();
        let fail = |what: String| Error::file(weights.path(), what);
        let (prefix, family, encoders) = choose(weights, &names, encoder).map_err(fail)?;
        if let Some(what) = foreign(names.iter().filter_map(|name| name.strip_prefix(prefix.as_str()))) {
            return Err(fail(what));
        }
        let source = source(weights, &names, &prefix, family);
        let has_norm = names.contains(format!("{prefix}norm.weight").as_str());
        let mut keys = Vec::new();
        for name in &names {
            let fate = match name.strip_prefix(prefix.as_str()) {
                None => Fate::Dropped(outside(name)),
                Some(rest) => match family {
                    Family::Timm => timms(rest, has_norm),
                    Family::MmPretrain => mmpretrains(rest),
                    Family::HuggingFace => hugging_faces(rest),
                }
                .or_else(|| dropped(rest))
                .ok_or_else(|| fail(format!("{}; it is not a ViT that this program runs", unknown(name, rest))))?,
            };
            keys.push((name.to_string(), fate));
        }
        Ok(Layout { source, prefix, encoders, keys })
    }
}

/// The prefix of the encoder to take.
fn choose(weights: &Weights, names: &BTreeSet<&str>, encoder: Option<&str>) -> Result<(String, Family, usize), String> {
    let mut found: Vec<(&str, Family)> = Vec::new();
    for name in names {
        for (anchor, family) in ANCHORS {
            if let Some(prefix) = name.strip_suffix(anchor).filter(|prefix| prefix.is_empty() || prefix.ends_with(['.', '/'])) {
                found.push((prefix, family));
            }
        }
    }
    if weights.texts.contains_key(super::backbone::KEY) && found.iter().any(|(prefix, _)| prefix.starts_with("parameter.")) {
        // A checkpoint of this program: moments have the parameters' names, too.
        found.retain(|(prefix, _)| prefix.starts_with("parameter."));
    }
    let encoders = found.len();
    if found.is_empty() {
        return Err(no_vit(weights.path(), names));
    }
    let list = |found: &[(&str, Family)]| found.iter().map(|(prefix, _)| prefix.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = encoder {
        let all = list(&found);
        found.retain(|(prefix, _)| prefix.contains(wanted));
        if found.is_empty() {
            return Err(format!("has no encoder `{}`; its encoders' names begin with: {all}", wanted.escape_debug()));
        }
    }
    // What timm takes where both are there, too.
    let averaged = |prefix: &str| prefix.starts_with("state_dict_ema/") || prefix.starts_with("model_ema/");
    if found.iter().any(|(prefix, _)| averaged(prefix)) {
        found.retain(|(prefix, _)| averaged(prefix));
    }
    let second = |prefix: &str| SECOND.iter().any(|word| prefix.contains(word));
    if found.iter().any(|(prefix, _)| !second(prefix)) {
        found.retain(|(prefix, _)| !second(prefix));
    }
    if found.iter().any(|(prefix, _)| prefix.ends_with("backbone.")) {
        found.retain(|(prefix, _)| prefix.ends_with("backbone.")); // mmselfsup writes MoCo v3's encoder under two names
    }
    match found[..] {
        [(prefix, family)] => Ok((prefix.to_string(), family, encoders)),
        _ => Err(format!("holds several encoders, whose names begin with: {}; set model.encoder to a part of one", list(&found))),
    }
}

/// Who wrote it, by evidence in the names.
fn source(weights: &Weights, names: &BTreeSet<&str>, prefix: &str, family: Family) -> Source {
    let has = |rest: &str| names.contains(format!("{prefix}{rest}").as_str());
    let any = |part: &str| names.iter().any(|name| name.contains(part));
    let scaled = names.iter().any(|name| name.starts_with(prefix) && name.ends_with(".ls1.gamma"));
    match family {
        _ if weights.texts.contains_key(super::backbone::KEY) => Source::Native,
        Family::MmPretrain => Source::MmPretrain { moco: any("momentum_encoder."), supervised: any("head.layers.") && !any("neck.") },
        Family::HuggingFace if any("layer_scale1.") => Source::HuggingFaceDinoV2,
        Family::HuggingFace => Source::HuggingFaceVit,
        Family::Timm if prefix.contains("base_encoder.") || prefix.contains("momentum_encoder.") => Source::MocoV3,
        Family::Timm if any("masked_embed") => Source::Ibot,
        Family::Timm if has("register_tokens") || scaled && (has("mask_token") || prefix.contains("backbone.")) => Source::DinoV2,
        Family::Timm if prefix.starts_with("teacher/") || prefix.starts_with("student/") => {
            // Others' distillation has a teacher and a student, too.
            if any("head.last_layer.") || any("head.mlp.") { Source::Dino } else { Source::Unknown }
        }
        Family::Timm if any("decoder_embed.") => Source::Mae,
        Family::Timm if prefix.ends_with("encoder.") || prefix.ends_with("encoder_k.") => {
            if any("encoder_k.") {
                Source::Moby
            } else {
                Source::Unknown
            }
        }
        Family::Timm if weights.texts.contains_key("best_acc1") || names.contains("best_acc1") => Source::Classifier,
        Family::Timm if prefix.contains("backbone.") => Source::Unknown,
        Family::Timm => Source::Timm,
    }
}

/// timm's own names, DINOv2's for registers, and its training's for blocks in chunks.
fn timms(name: &str, has_norm: bool) -> Option<Fate> {
    match name {
        "cls_token" | "pos_embed" | "reg_token" | "patch_embed.proj.weight" | "patch_embed.proj.bias" | "norm.weight" | "norm.bias" => {
            return Some(Fate::Is(name.into()));
        }
        "register_tokens" => return Some(Fate::Is("reg_token".into())),
        // Where a final norm is there too, this one is the classifier's.
        "fc_norm.weight" | "fc_norm.bias" if has_norm => return Some(Fate::Dropped("the classifier's norm")),
        _ => {}
    }
    let mut parts: Vec<&str> = name.strip_prefix("blocks.")?.splitn(3, '.').collect();
    if parts.len() == 3 && number(parts[1]).is_some() {
        parts.remove(0); // the chunk; the block's number counts from the first chunk's first
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
    known.contains(&rest.as_str()).then(|| Fate::Is(format!("blocks.{block}.{rest}")))
}

/// A number as names have it.
fn number(text: &str) -> Option<usize> {
    text.parse().ok().filter(|n: &usize| n.to_string() == text)
}

/// Of `layers.N.rest` the block's number and what `rest` is called here.
fn block_part(name: &str, before: &str, parts: &[(&str, &str)]) -> Option<(usize, String)> {
    let (block, rest) = name.strip_prefix(before)?.split_once('.')?;
    let block = number(block)?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (_, ours) = parts.iter().find(|(theirs, _)| *theirs == part)?;
    let kind = if ours.starts_with("ls") { "gamma" } else { kind };
    Some((block, format!("blocks.{block}.{ours}.{kind}")))
}

fn mmpretrains(name: &str) -> Option<Fate> {
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
    Some(Fate::Is(match name {
        "cls_token" | "pos_embed" => name.into(),
        "patch_embed.projection.weight" => "patch_embed.proj.weight".into(),
        "patch_embed.projection.bias" => "patch_embed.proj.bias".into(),
        "ln1.weight" => "norm.weight".into(),
        "ln1.bias" => "norm.bias".into(),
        _ => block_part(name, "layers.", &PARTS)?.1,
    }))
}

fn hugging_faces(name: &str) -> Option<Fate> {
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
    const THIRDS: [(&str, &str); 6] = [
        ("attention.attention.query", "0"),
        ("attention.attention.key", "1"),
        ("attention.attention.value", "2"),
        ("attention.q_proj", "0"),
        ("attention.k_proj", "1"),
        ("attention.v_proj", "2"),
    ];
    Some(Fate::Is(match name {
        "embeddings.cls_token" => "cls_token".into(),
        "embeddings.position_embeddings" => "pos_embed".into(),
        "embeddings.register_tokens" => "reg_token".into(),
        "embeddings.patch_embeddings.projection.weight" => "patch_embed.proj.weight".into(),
        "embeddings.patch_embeddings.projection.bias" => "patch_embed.proj.bias".into(),
        "layernorm.weight" => "norm.weight".into(),
        "layernorm.bias" => "norm.bias".into(),
        _ => {
            let rest = name.strip_prefix("encoder.").unwrap_or(name);
            let before = if rest.starts_with("layers.") { "layers." } else { "layer." };
            if let Some((block, third)) = block_part(rest, before, &THIRDS) {
                let mut words = third.rsplit('.');
                let kind = words.next()?;
                return Some(Fate::Third(format!("blocks.{block}.attn.qkv.{kind}"), number(words.next()?)?));
            }
            block_part(rest, before, &PARTS)?.1
        }
    }))
}

/// Why a tensor of the encoder is not wanted.
fn dropped(name: &str) -> Option<Fate> {
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
    WHY.iter().find(|(begin, _)| name.starts_with(begin)).map(|(_, why)| Fate::Dropped(why))
}

/// Why a tensor outside the encoder is not wanted.
fn outside(name: &str) -> &'static str {
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
    WHY.iter().find(|(part, _)| name.contains(part)).map_or("not the encoder's", |(_, why)| why)
}

/// A name from a file as it may be shown.
pub(super) fn shown(name: &str) -> String {
    let mut text: String = name.escape_debug().take(80).collect();
    if text.len() < name.len() {
        text.push_str("...");
    }
    text
}
