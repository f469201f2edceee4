//! Models that are recognised and cannot be run here, by their tensors' names, and what is said of them.

use super::layout::shown;
use std::collections::BTreeSet;
use std::path::Path;

const SWIN: &str = "is a Swin transformer, which this program does not run yet; give a plain ViT's checkpoint";
const RELATIVE: &str =
    "is a ViT with relative position bias (SimMIM's and BEiT's are), which this program does not run; give one with position embeddings";
const ROTARY: &str =
    "is a ViT with rotary positions (DINOv3's and EVA's are), which this program does not run; give one with position embeddings";
/// Of two halves of its hidden layer one is the other's gate.
pub(super) const SWIGLU: &str =
    "has SwiGLU layers (DINOv2's giant model does), which this program does not run; give a smaller model of the family";

/// What the encoder is that has these names, where it is known and cannot be run.
pub(super) fn foreign<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<&str> = names.collect();
    let any = |part: &str| names.iter().any(|name| name.contains(part));
    let any_word = |begin: &str| names.iter().any(|name| name.split('.').any(|word| word.starts_with(begin)));
    let windows = any("layers.0.blocks.0.") || any("layers.0.0.blocks.0.") || any("stages.0.blocks.0.");
    let what = if any("relative_position_bias_table") && windows || any("cpb_mlp.") || any("continuous_position_bias_mlp.") {
        SWIN
    } else if any("relative_position_bias") || any("rel_pos_bias") {
        RELATIVE
    } else if any("dist_token") || any("distillation_token") {
        "is a distilled DeiT with a second class token, which this program does not run; give one without"
    } else if any("mlp.w12.") || any("ffn.w12.") || any("mlp.weights_in.") || any("mlp.gate_proj.") || any("mlp.fc1_g.") {
        SWIGLU
    } else if any_word("rope") {
        ROTARY
    } else {
        return None;
    };
    Some(what.into())
}

/// What a file without an encoder seems to be.
pub(super) fn no_vit(path: &Path, names: &BTreeSet<&str>) -> String {
    let is_classifier = |name: &&str| {
        let last: Vec<&str> = name.rsplitn(3, ['.', '/']).collect();
        matches!(last[..], ["weight" | "bias", "linear" | "fc" | "head" | "classifier" | "last_layer", ..])
    };
    let any = |part: &str| names.iter().any(|name| name.contains(part));
    let first = names.first().map_or(String::new(), |name| format!("; the first of its {} tensors is `{}`", names.len(), shown(name)));
    if names.is_empty() {
        "holds no tensors of numbers; give the checkpoint of a pre-training".into()
    } else if names.iter().filter(|name| !name.starts_with("optimizer")).all(is_classifier) {
        "holds a linear classifier alone, not a backbone; give the checkpoint of the pre-training that it was trained on".into()
    } else if any("flat_param") {
        "holds one rank's share of a model that FSDP has cut up; save the whole state dict".into()
    } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains("-of-0")) {
        "is one shard of several; save the model in one file (max_shard_size in save_pretrained)".into()
    } else if any("relative_position_bias_table") {
        SWIN.into()
    } else if any("patch_embed.proj.0.weight") {
        "is a ViT with a stem of convolutions (MoCo v3's vit_conv models), which this program does not run; give a plain ViT".into()
    } else if any("rope_embeddings.") || any("embeddings.patch_embeddings.weight") {
        ROTARY.into()
    } else if names.iter().any(|name| name.ends_with("layer1.0.conv1.weight")) {
        "is a ResNet; this program runs ViTs".into()
    } else {
        format!("holds no ViT that is known here: no patch embedding by the names of timm, mmpretrain or Hugging Face{first}")
    }
}

/// Why a tensor of the encoder cannot be run.
pub(super) fn unknown(name: &str, rest: &str) -> String {
    let shown = shown(name);
    if rest.contains("fc_norm.") {
        format!("has `{shown}` and no final norm: a fine-tuned classifier that pools before it normalises")
    } else if rest.contains("q_norm") || rest.contains("k_norm") {
        format!("has norms of queries and keys (`{shown}`)")
    } else if rest.contains("norm_pre") || rest.contains("pre_norm") {
        format!("has a norm before the first block (`{shown}`), as CLIP's models do")
    } else if ["gamma_1", "gamma_2", "lambda_1", "lambda_2", "q_bias", "v_bias"].iter().any(|part| rest.ends_with(part)) {
        format!("has `{shown}`, as BEiT's, EVA's and DINOv3's kin do")
    } else {
        format!("has `{shown}`, which has no place here")
    }
}
