//! timm's files: a state dict that `load_state_dict(strict=True)` takes, and the hub's `config.json`, by which `create_model("local-dir:...")` finds
//! architecture, heads and normalisation.

use super::backbone::{self, Info, Named, decimal};
use crate::evaluation::features::FeatureKind;
use crate::models::vit::VitConfig;
use mimco_engine::Parameters;
use serde_json::{Value, json};

/// timm's registers come without a position of the class token (`no_embed_class`): it is added to the token. `[width]`; empty without registers.
pub(super) fn class_with_position(config: &VitConfig, parameters: &Parameters) -> Vec<f32> {
    if config.registers == 0 {
        return Vec::new();
    }
    let get = |name: &str| parameters.find(name).map_or(&[][..], |id| parameters.get(id));
    get("cls_token").iter().zip(get("pos_embed")).map(|(token, position)| token + position).collect()
}

/// The parameters as timm has them; `class` is [`class_with_position`].
pub(super) fn arrays<'a>(config: &VitConfig, parameters: &'a Parameters, class: &'a [f32]) -> Vec<Named<'a>> {
    let mut arrays = backbone::arrays(config, parameters);
    if config.registers > 0 {
        for (name, shape, data) in &mut arrays {
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
    arrays
}

/// `config.json` of timm's hub format.
pub(super) fn config(info: &Info) -> Value {
    let model = &info.model;
    let size = match (model.width, model.depth) {
        (192, 12) => "tiny",
        (384, 12) => "small",
        (1024, 24) => "large",
        _ => "base",
    };
    // Over the named architecture's own arguments, so that any size, head count and patch comes out right.
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
            "mean": model.mean.map(decimal),
            "std": model.std.map(decimal),
            "num_classes": 0,
            "pool_size": null,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": info.licence,
        },
    })
}
