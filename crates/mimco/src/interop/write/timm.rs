//! Export for timm: a state dict that `load_state_dict(strict=True)` accepts, and the hub's
//! `config.json`, in which `create_model("local-dir:...")` finds architecture, heads and
//! normalization.

use super::safetensors::NamedTensor;
use super::tensors::{HostParameters, backbone_tensors, shortest_decimal};
use crate::interop::info::Info;
use crate::models::backbone::{Backbone, FeatureKind};
use crate::models::vit::{ForwardOptions, NORM_EPS, Vit, VitConfig};
use mimco_engine::{Tape, Tensor};
use serde_json::{Value, json};

/// Largest relative difference of the tokens up to which the epsilon is replaced without scaling.
const NEGLIGIBLE: f64 = 2e-5;

/// Replaces the epsilon of the norms by timm's 1e-6, which its files cannot change. If that changes
/// the tokens of an image of noise, the residual stream is also multiplied by sqrt(1e-6 / eps). Its
/// norms, and so all tokens after the last one, then stay the same. Returns a warning about the
/// change.
pub(crate) fn replace_norm_eps(backbone: &mut Backbone, info: &mut Info) -> Option<String> {
    let own = backbone.vit.config.norm_eps;
    if own == NORM_EPS {
        return None;
    }
    let difference = token_difference(backbone, &backbone.vit.with_norm_eps(NORM_EPS));
    backbone.vit = backbone.vit.with_norm_eps(NORM_EPS);
    info.model.norm_eps = NORM_EPS;
    let differs = format!("timm's norms have an epsilon of {NORM_EPS:e}, this model's {own:e}");
    if difference <= NEGLIGIBLE {
        return Some(format!("{differs}; the tokens of an image of noise change by {difference:.0e} of their norm"));
    }
    let factor = (NORM_EPS as f64 / own as f64).sqrt() as f32;
    let config = &backbone.vit.config;
    for (name, _) in config.parameters() {
        let ends_branch = match config.layer_scale {
            0.0 => [".attn.proj.weight", ".attn.proj.bias", ".mlp.fc2.weight", ".mlp.fc2.bias"].iter().any(|end| name.ends_with(end)),
            _ => name.ends_with(".gamma"),
        };
        let starts_stream = !name.starts_with("blocks.") && !name.starts_with("norm.");
        if let Some(id) = backbone.parameters.find(&name).filter(|_| starts_stream || ends_branch) {
            backbone.parameters.update_on_host(id, |weights| weights.iter_mut().for_each(|weight| *weight *= factor));
        }
    }
    Some(format!(
        "{differs}, which would change the tokens of an image of noise by {difference:.0e} of their norm; the weights that write to the \
         residual stream are scaled by {factor:.4}, which keeps the features (fine-tuning needs other learning rates)"
    ))
}

/// Returns the relative difference between the tokens of an image of noise under a backbone and
/// under another model with the same parameters.
fn token_difference(backbone: &Backbone, other: &Vit) -> f64 {
    let size = backbone.vit.config.image;
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let pixels: Vec<f32> = (0..3 * size * size).map(|_| noise()).collect();
    let image = Tensor::from_slice([1, 3, size, size], &pixels);
    let [tokens, others] = [&backbone.vit, other]
        .map(|vit| vit.forward(&mut Tape::inference(&backbone.parameters), &image, &ForwardOptions::default()).x.value);
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| (v as f64).powi(2)).sum::<f64>().sqrt();
    let (tokens, others) = (tokens.to_host(), others.to_host());
    norm(&mut tokens.iter().zip(&others[..]).map(|(a, b)| a - b)) / norm(&mut tokens.iter().copied()).max(1e-30)
}

/// Returns the class token plus its position, `[width]`, for a model with registers; otherwise
/// nothing. timm's models with registers have no position of the class token (`no_embed_class`).
pub(crate) fn class_with_position(config: &VitConfig, parameters: &HostParameters<'_>) -> Vec<f32> {
    if config.registers == 0 {
        return Vec::new();
    }
    let get = |name: &str| parameters.get(name).unwrap_or_default();
    get("cls_token").iter().zip(get("pos_embed")).map(|(token, position)| token + position).collect()
}

/// Returns the tensors of timm's state dict. `class` is the result of [`class_with_position`].
pub(crate) fn tensors<'a>(config: &VitConfig, parameters: &'a HostParameters<'_>, class: &'a [f32]) -> Vec<NamedTensor<'a>> {
    let mut tensors = backbone_tensors(config, parameters);
    if config.registers > 0 {
        for (name, shape, data) in &mut tensors {
            match name.as_str() {
                "cls_token" => *data = class,
                "pos_embed" => {
                    shape[1] -= 1;
                    *data = &data[config.width..];
                }
                _ => {}
            }
        }
    }
    tensors
}

/// Returns the `config.json` of timm's hub.
pub(crate) fn config(info: &Info) -> Value {
    let model = &info.model;
    let size = match (model.width, model.depth) {
        (192, 12) => "tiny",
        (384, 12) => "small",
        (1024, 24) => "large",
        _ => "base",
    };
    // These override the arguments of the named architecture, so any size, head count and patch
    // works.
    let mut arguments = json!({
        "img_size": model.image,
        "patch_size": model.patch,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.heads,
        "mlp_ratio": model.mlp as f64 / model.width as f64,
    });
    if model.layer_scale != 0.0 {
        arguments["init_values"] = json!(1e-5);
    }
    if model.registers > 0 {
        arguments["reg_tokens"] = json!(model.registers);
        arguments["no_embed_class"] = json!(true);
    }
    json!({
        "architecture": format!("vit_{size}_patch16_224"),
        "num_classes": 0,
        "num_features": model.width,
        "global_pool": if info.pooling == FeatureKind::Class { "token" } else { "avg" },
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, model.image, model.image],
            "fixed_input_size": true,
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "mean": model.mean.map(shortest_decimal),
            "std": model.std.map(shortest_decimal),
            "num_classes": 0,
            "pool_size": null,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": info.license,
        },
    })
}
