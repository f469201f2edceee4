//! Models that are recognized by their tensors' names and not supported, and the errors about them.

use super::escape::printable;
use std::collections::BTreeSet;
use std::path::Path;

const SWIN: &str = "is a Swin transformer, which this program does not support yet; give a plain ViT's checkpoint";
const RELATIVE: &str =
    "is a ViT with relative position bias (as SimMIM's and BEiT's), which this program does not support; give one with position embeddings";
const ROTARY: &str =
    "is a ViT with rotary positions (as DINOv3's and EVA's), which this program does not support; give one with position embeddings";
/// Error about a gated MLP: one half of its hidden layer multiplies the other.
pub(super) const SWIGLU: &str =
    "has SwiGLU layers (as DINOv2's giant model), which this program does not support; give a smaller model of the family";

/// Returns the error about an encoder with these names, if it is of an unsupported kind.
pub(super) fn unsupported_encoder<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<&str> = names.collect();
    let any = |part: &str| names.iter().any(|name| name.contains(part));
    let any_word = |begin: &str| names.iter().any(|name| name.split('.').any(|word| word.starts_with(begin)));
    let windows = any("layers.0.blocks.0.") || any("layers.0.0.blocks.0.") || any("stages.0.blocks.0.");
    let what = if any("relative_position_bias_table") && windows || any("cpb_mlp.") || any("continuous_position_bias_mlp.") {
        SWIN
    } else if any("relative_position_bias") || any("rel_pos_bias") {
        RELATIVE
    } else if any("dist_token") || any("distillation_token") {
        "is a distilled DeiT with a second class token, which this program does not support; give one without"
    } else if any("mlp.w12.") || any("ffn.w12.") || any("mlp.weights_in.") || any("mlp.gate_proj.") || any("mlp.fc1_g.") {
        SWIGLU
    } else if any_word("rope") {
        ROTARY
    } else {
        return None;
    };
    Some(what.into())
}

/// Returns the error about a file without a known encoder.
pub(super) fn no_encoder(path: &Path, names: &BTreeSet<&str>) -> String {
    let is_classifier = |name: &&str| {
        let last: Vec<&str> = name.rsplitn(3, ['.', '/']).collect();
        matches!(last[..], ["weight" | "bias", "linear" | "fc" | "head" | "classifier" | "last_layer", ..])
    };
    let any = |part: &str| names.iter().any(|name| name.contains(part));
    let first = names.first().map_or(String::new(), |name| format!("; the first of its {} tensors is `{}`", names.len(), printable(name)));
    if names.is_empty() {
        "contains no tensors of floats; give the checkpoint of a pre-training".into()
    } else if names.iter().filter(|name| !name.starts_with("optimizer")).all(is_classifier) {
        "contains only a linear classifier, not a backbone; give the checkpoint of the pre-training that it was trained on".into()
    } else if any("flat_param") {
        "contains one rank's shard of a model that FSDP split; save the whole state dict".into()
    } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains("-of-0")) {
        "is one shard of several; save the model in one file (max_shard_size in save_pretrained)".into()
    } else if any("relative_position_bias_table") {
        SWIN.into()
    } else if any("patch_embed.proj.0.weight") {
        "is a ViT with a stem of convolutions (MoCo v3's vit_conv models), which this program does not support; give a plain ViT".into()
    } else if any("rope_embeddings.") || any("embeddings.patch_embeddings.weight") {
        ROTARY.into()
    } else if names.iter().any(|name| name.ends_with("layer1.0.conv1.weight")) {
        "is a ResNet; this program supports ViTs".into()
    } else {
        format!("contains no known ViT: no patch embedding with a name of timm, mmpretrain or Hugging Face{first}")
    }
}

/// Returns the error about a tensor of the encoder that has no parameter. `rest` is its name
/// without the encoder's prefix.
pub(super) fn unknown_tensor(name: &str, rest: &str) -> String {
    let name = printable(name);
    let what = if rest.contains("fc_norm.") {
        format!("has `{name}` and no final norm, as a fine-tuned classifier that pools before it normalizes")
    } else if rest.contains("q_norm") || rest.contains("k_norm") {
        format!("has norms of queries and keys (`{name}`)")
    } else if rest.contains("norm_pre") || rest.contains("pre_norm") {
        format!("has a norm before the first block (`{name}`), as CLIP's models do")
    } else if ["gamma_1", "gamma_2", "lambda_1", "lambda_2", "q_bias", "v_bias"].iter().any(|part| rest.ends_with(part)) {
        format!("has `{name}`, as models of the BEiT, EVA and DINOv3 families do")
    } else {
        format!("has `{name}`, which is not a parameter of a plain ViT")
    };
    format!("{what}; this program does not support such ViTs")
}
