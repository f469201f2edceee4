//! Hugging Face's folders: `ViTModel`, or `Dinov2Model` where there is LayerScale, or `Dinov2WithRegistersModel`; with the preprocessor's
//! configuration. Names are those that transformers has read since its fourth version.

use super::backbone::{Info, Named, decimal};
use crate::models::vit::VitConfig;
use mimco_data::transform::SMALL;
use mimco_engine::Parameters;
use serde_json::{Value, json};

/// Which of its models a backbone is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Vit,
    DinoV2,
    DinoV2WithRegisters,
}

fn kind(config: &VitConfig) -> Kind {
    match (config.registers, config.layer_scale != 0.0) {
        (0, false) => Kind::Vit,
        (0, true) => Kind::DinoV2,
        _ => Kind::DinoV2WithRegisters,
    }
}

/// What its models have beside ours: a mask token and factors of branches, which do nothing here.
pub(super) struct Constants {
    zeros: Vec<f32>,
    ones: Vec<f32>,
}

impl Constants {
    pub fn of(config: &VitConfig) -> Constants {
        Constants { zeros: vec![0.0; config.width], ones: vec![1.0; config.width] }
    }
}

/// Why a model cannot be one of these, if it cannot.
pub(super) fn refusal(config: &VitConfig) -> Option<String> {
    let whole = config.mlp.is_multiple_of(config.width);
    (kind(config) != Kind::Vit && !whole)
        .then(|| format!("has an MLP of {} for a width of {}; Hugging Face's Dinov2 takes whole multiples", config.mlp, config.width))
}

/// LayerScale as its model has it: those with registers always do, and factors of 1 change nothing.
pub(super) fn layer_scale(config: &VitConfig) -> f32 {
    if kind(config) == Kind::DinoV2WithRegisters && config.layer_scale == 0.0 { 1.0 } else { config.layer_scale }
}

/// The parameters as its models have them.
pub(super) fn arrays<'a>(config: &VitConfig, parameters: &'a Parameters, constants: &'a Constants) -> Vec<Named<'a>> {
    let (width, mlp, kind) = (config.width, config.mlp, kind(config));
    let get = |name: &str| parameters.find(name).map_or(&[][..], |id| parameters.get(id));
    let patch = vec![width, 3, config.patch, config.patch];
    let mut all: Vec<Named<'a>> = vec![
        ("embeddings.cls_token".into(), vec![1, 1, width], get("cls_token")),
        ("embeddings.position_embeddings".into(), vec![1, config.patches() + 1, width], get("pos_embed")),
        ("embeddings.patch_embeddings.projection.weight".into(), patch, get("patch_embed.proj.weight")),
        ("embeddings.patch_embeddings.projection.bias".into(), vec![width], get("patch_embed.proj.bias")),
        ("layernorm.weight".into(), vec![width], get("norm.weight")),
        ("layernorm.bias".into(), vec![width], get("norm.bias")),
    ];
    if kind != Kind::Vit {
        all.push(("embeddings.mask_token".into(), vec![1, width], &constants.zeros));
    }
    if config.registers > 0 {
        all.push(("embeddings.register_tokens".into(), vec![1, config.registers, width], get("reg_token")));
    }
    let [norm1, norm2, fc1, fc2] = match kind {
        Kind::Vit => ["layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"],
        Kind::DinoV2 | Kind::DinoV2WithRegisters => ["norm1", "norm2", "mlp.fc1", "mlp.fc2"],
    };
    for i in 0..config.depth {
        let ours = |part: &str| get(&format!("blocks.{i}.{part}"));
        let mut add = |name: &str, shape: &[usize], data: &'a [f32]| {
            all.push((format!("encoder.layer.{i}.{name}"), shape.to_vec(), data));
        };
        for (which, name) in ["query", "key", "value"].iter().enumerate() {
            let third = |all: &'a [f32]| &all[which * all.len() / 3..][..all.len() / 3];
            add(&format!("attention.attention.{name}.weight"), &[width, width], third(ours("attn.qkv.weight")));
            add(&format!("attention.attention.{name}.bias"), &[width], third(ours("attn.qkv.bias")));
        }
        for (theirs, part, inputs, outputs) in
            [("attention.output.dense", "attn.proj", width, width), (fc1, "mlp.fc1", width, mlp), (fc2, "mlp.fc2", mlp, width)]
        {
            add(&format!("{theirs}.weight"), &[outputs, inputs], ours(&format!("{part}.weight")));
            add(&format!("{theirs}.bias"), &[outputs], ours(&format!("{part}.bias")));
        }
        for (theirs, part) in [(norm1, "norm1"), (norm2, "norm2")] {
            add(&format!("{theirs}.weight"), &[width], ours(&format!("{part}.weight")));
            add(&format!("{theirs}.bias"), &[width], ours(&format!("{part}.bias")));
        }
        if kind != Kind::Vit {
            for (theirs, part) in [("layer_scale1.lambda1", "ls1.gamma"), ("layer_scale2.lambda1", "ls2.gamma")] {
                add(theirs, &[width], if config.layer_scale != 0.0 { ours(part) } else { &constants.ones });
            }
        }
    }
    all
}

/// `config.json`.
pub(super) fn config(info: &Info) -> Value {
    let model = &info.model;
    let (name, kind_name) = match kind(model) {
        Kind::Vit => ("ViTModel", "vit"),
        Kind::DinoV2 => ("Dinov2Model", "dinov2"),
        Kind::DinoV2WithRegisters => ("Dinov2WithRegistersModel", "dinov2_with_registers"),
    };
    let mut config = json!({
        "architectures": [name],
        "model_type": kind_name,
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": decimal(model.norm_eps),
        "image_size": model.image,
        "patch_size": model.patch,
        "num_channels": 3,
        "qkv_bias": true,
        "torch_dtype": "float32",
    });
    match kind(model) {
        Kind::Vit => config["intermediate_size"] = json!(model.mlp),
        Kind::DinoV2 | Kind::DinoV2WithRegisters => {
            config["mlp_ratio"] = json!(model.mlp / model.width);
            config["layerscale_value"] = json!(1.0);
            config["drop_path_rate"] = json!(0.0);
            config["use_swiglu_ffn"] = json!(false);
        }
    }
    if model.registers > 0 {
        config["num_register_tokens"] = json!(model.registers);
    }
    config
}

/// `preprocessor_config.json`: the view that this program evaluates on.
pub(super) fn preprocessor(info: &Info) -> Value {
    let size = info.model.image;
    let square = json!({"height": size, "width": size});
    let small = size < SMALL as usize;
    json!({
        "image_processor_type": if small { "ViTImageProcessor" } else { "BitImageProcessor" },
        "do_convert_rgb": true,
        "do_resize": true,
        "size": if small { square.clone() } else { json!({"shortest_edge": size * 256 / 224}) },
        "resample": 3,
        "do_center_crop": !small,
        "crop_size": square,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": info.model.mean.map(decimal),
        "image_std": info.model.std.map(decimal),
    })
}
