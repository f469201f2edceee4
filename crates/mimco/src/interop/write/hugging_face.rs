//! Export for Hugging Face: a folder with a `ViTModel`, with LayerScale a `Dinov2Model`, with
//! registers a `Dinov2WithRegistersModel`, and its preprocessor. transformers reads these names
//! since version 4.

use super::safetensors::NamedTensor;
use super::tensors::{HostParameters, shortest_decimal};
use crate::interop::info::Info;
use crate::models::vit::VitConfig;
use mimco_data::augment::MIN_CROPPED_SIZE;
use serde_json::{Value, json};

/// Model class of a backbone.
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

/// Tensors that the models of Hugging Face require and that do not change the tokens: a mask token
/// of zeros and LayerScale factors of ones.
pub(crate) struct Constants {
    zeros: Vec<f32>,
    ones: Vec<f32>,
}

impl Constants {
    /// Makes the tensors for a model's width.
    pub fn new(config: &VitConfig) -> Constants {
        Constants { zeros: vec![0.0; config.width], ones: vec![1.0; config.width] }
    }
}

/// Returns the reason why no model class fits a backbone, if none does.
pub(crate) fn unsupported(config: &VitConfig) -> Option<String> {
    let whole = config.mlp.is_multiple_of(config.width);
    (kind(config) != Kind::Vit && !whole).then(|| {
        format!(
            "has an MLP of width {} for tokens of width {}; Hugging Face's Dinov2 supports only whole multiples",
            config.mlp, config.width
        )
    })
}

/// Returns the LayerScale of the exported model. Models with registers always have one; its factors
/// are 1 if the backbone has none.
pub(crate) fn layer_scale(config: &VitConfig) -> f32 {
    if kind(config) == Kind::DinoV2WithRegisters && config.layer_scale == 0.0 { 1.0 } else { config.layer_scale }
}

/// Returns the tensors of the model class.
pub(crate) fn tensors<'a>(config: &VitConfig, parameters: &'a HostParameters<'_>, constants: &'a Constants) -> Vec<NamedTensor<'a>> {
    let (width, mlp, kind) = (config.width, config.mlp, kind(config));
    let get = |name: &str| parameters.get(name).unwrap_or_default();
    let patch = vec![width, 3, config.patch, config.patch];
    let mut all: Vec<NamedTensor<'a>> = vec![
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
        let block = |part: &str| get(&format!("blocks.{i}.{part}"));
        let mut add = |name: &str, shape: &[usize], data: &'a [f32]| {
            all.push((format!("encoder.layer.{i}.{name}"), shape.to_vec(), data));
        };
        for (part, name) in ["query", "key", "value"].iter().enumerate() {
            let third = |all: &'a [f32]| &all[part * all.len() / 3..][..all.len() / 3];
            add(&format!("attention.attention.{name}.weight"), &[width, width], third(block("attn.qkv.weight")));
            add(&format!("attention.attention.{name}.bias"), &[width], third(block("attn.qkv.bias")));
        }
        for (name, part, inputs, outputs) in
            [("attention.output.dense", "attn.proj", width, width), (fc1, "mlp.fc1", width, mlp), (fc2, "mlp.fc2", mlp, width)]
        {
            add(&format!("{name}.weight"), &[outputs, inputs], block(&format!("{part}.weight")));
            add(&format!("{name}.bias"), &[outputs], block(&format!("{part}.bias")));
        }
        for (name, part) in [(norm1, "norm1"), (norm2, "norm2")] {
            add(&format!("{name}.weight"), &[width], block(&format!("{part}.weight")));
            add(&format!("{name}.bias"), &[width], block(&format!("{part}.bias")));
        }
        if kind != Kind::Vit {
            for (name, part) in [("layer_scale1.lambda1", "ls1.gamma"), ("layer_scale2.lambda1", "ls2.gamma")] {
                add(name, &[width], if config.layer_scale != 0.0 { block(part) } else { &constants.ones });
            }
        }
    }
    all
}

/// Returns the `config.json`.
pub(crate) fn config(info: &Info) -> Value {
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
        "layer_norm_eps": shortest_decimal(model.norm_eps),
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

/// Returns the `preprocessor_config.json`, which is equivalent to this program's transform.
pub(crate) fn preprocessor(info: &Info) -> Value {
    let size = info.model.image;
    let square = json!({"height": size, "width": size});
    let small = size < MIN_CROPPED_SIZE as usize;
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
        "image_mean": info.model.mean.map(shortest_decimal),
        "image_std": info.model.std.map(shortest_decimal),
    })
}
