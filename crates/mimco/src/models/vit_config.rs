//! The sizes of a vision transformer.

use super::arch::Arch;
use serde::{Deserialize, Serialize};

/// Epsilon of every layer norm; timm's for vision transformers.
pub const NORM_EPS: f32 = 1e-6;
/// Channel means of ImageNet, as in torchvision and timm.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Channel standard deviations of ImageNet.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];
/// Most patches of an image; attention over more does not fit in memory.
pub(crate) const MAX_PATCHES: usize = 16_384;
/// Largest side of an image in pixels.
pub(crate) const LARGEST_IMAGE: usize = 4096;
/// Channels of an image.
pub(super) const CHANNELS: usize = 3;

/// Kind of position embedding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// Trained, from random values.
    Learned,
    /// Fixed two-dimensional sines and cosines; zero for the class token.
    Sincos,
}

/// Sizes of a vision transformer, and the statistics of its input.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VitConfig {
    /// Width of a token.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block. Shapes do not determine it, so every file contains it.
    pub heads: usize,
    /// Hidden width of a block's MLP.
    pub mlp: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the image in pixels.
    pub image: usize,
    /// Kind of position embedding.
    pub position: Position,
    /// Register tokens between the class token and the patches (Darcet et al. 2023).
    #[serde(default, skip_serializing_if = "is_default")]
    pub registers: usize,
    /// Initial factor of LayerScale, 1 if unknown; 0 for a model without LayerScale.
    #[serde(default, skip_serializing_if = "is_default")]
    pub layer_scale: f32,
    /// Epsilon of every layer norm.
    #[serde(default = "norm_eps", skip_serializing_if = "is_norm_eps")]
    pub norm_eps: f32,
    /// Channel means of the training images, values in 0..1.
    pub mean: [f32; 3],
    /// Channel standard deviations of the training images.
    pub std: [f32; 3],
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn norm_eps() -> f32 {
    NORM_EPS
}

fn is_norm_eps(eps: &f32) -> bool {
    *eps == NORM_EPS
}

impl VitConfig {
    /// Returns a model of these sizes with one head for each 64 of its width, ImageNet's statistics, and
    /// neither registers nor LayerScale.
    pub fn plain(width: usize, depth: usize, mlp: usize, patch: usize, image: usize) -> VitConfig {
        VitConfig {
            width,
            depth,
            heads: (width / 64).max(1),
            mlp,
            patch,
            image,
            position: Position::Learned,
            registers: 0,
            layer_scale: 0.0,
            norm_eps: NORM_EPS,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }

    /// Returns the number of patches along a side.
    pub fn grid(&self) -> usize {
        self.image / self.patch
    }

    /// Returns the number of patches of an image.
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Returns the number of tokens before the patches: the class token and the registers.
    pub fn prefix(&self) -> usize {
        1 + self.registers
    }

    /// Returns the number of tokens of an image.
    pub fn tokens(&self) -> usize {
        self.prefix() + self.patches()
    }

    /// Returns the names and shapes of the parameters, as in timm.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let (d, mlp) = (self.width, self.mlp);
        let mut all = vec![("cls_token".to_string(), vec![1, 1, d])];
        all.extend((self.registers > 0).then(|| ("reg_token".to_string(), vec![1, self.registers, d])));
        all.push(("pos_embed".into(), vec![1, self.patches() + 1, d]));
        all.push(("patch_embed.proj.weight".into(), vec![d, CHANNELS, self.patch, self.patch]));
        all.push(("patch_embed.proj.bias".into(), vec![d]));
        for i in 0..self.depth {
            let mut add = |part: &str, shape: &[usize]| all.push((format!("blocks.{i}.{part}"), shape.to_vec()));
            for (name, inputs, outputs) in [("attn.qkv", d, 3 * d), ("attn.proj", d, d), ("mlp.fc1", d, mlp), ("mlp.fc2", mlp, d)] {
                add(&format!("{name}.weight"), &[outputs, inputs]);
                add(&format!("{name}.bias"), &[outputs]);
            }
            for part in ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"] {
                add(part, &[d]);
            }
            if self.layer_scale != 0.0 {
                add("ls1.gamma", &[d]);
                add("ls2.gamma", &[d]);
            }
        }
        all.extend(["norm.weight", "norm.bias"].map(|name| (name.to_string(), vec![d])));
        all
    }

    /// Returns the name of the architecture, heads included.
    pub fn name(&self) -> String {
        let size = match Arch::named(self.width, self.depth) {
            Some(arch) => arch.to_string(),
            None => format!("w{}d{}", self.width, self.depth),
        };
        let registers = if self.registers > 0 { format!("_reg{}", self.registers) } else { String::new() };
        let scale = if self.layer_scale != 0.0 { "_ls" } else { "" };
        format!("vit_{size}_h{}_patch{}{registers}{scale}_{}", self.heads, self.patch, self.image)
    }

    /// Returns the floating-point operations of a forward pass for one image, two for a multiply-add.
    /// `read` is the number of tokens that the last block computes after its attention.
    pub fn forward_flop(&self, read: usize) -> f64 {
        let (n, d, mlp) = (self.tokens() as f64, self.width as f64, self.mlp as f64);
        let (attention, after) = (n * 3.0 * d * d + 2.0 * n * n * d, d * d + 2.0 * d * mlp);
        2.0 * (self.depth as f64 * attention + ((self.depth - 1) as f64 * n + read as f64) * after) + self.embedding_flop()
    }

    /// Returns the part of [`VitConfig::forward_flop`] that the patch embedding takes.
    pub fn embedding_flop(&self) -> f64 {
        2.0 * self.patches() as f64 * self.width as f64 * (CHANNELS * self.patch * self.patch) as f64
    }
}
