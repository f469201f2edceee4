//! The vision transformer of Dosovitskiy et al. (2021) with pre-norm blocks, as timm names its parts.

use super::arch::Arch;
use super::initialise::{linear_uniform, truncated_normal, xavier_uniform};
use mimco_data::random::{Purpose, keyed, unit};
use mimco_engine::ops::{DropPath, Layer, Masked, Norm, Prefix, Residual};
use mimco_engine::{ParameterId, Parameters, Tape, Tensor, Var};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Epsilon of every layer norm, timm's for ViTs.
pub const NORM_EPS: f32 = 1e-6;
/// Mean of ImageNet's channels, as torchvision and timm have it.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Their deviation.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];
/// Most patches of an image; attention over more does not fit in memory.
pub(crate) const MAX_PATCHES: usize = 16_384;
/// Largest side of an image in pixels.
pub(crate) const LARGEST_IMAGE: usize = 4096;
const CHANNELS: usize = 3;

/// How positions begin, and whether they are trained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// Trained, begun from a normal distribution.
    Learned,
    /// Fixed two-dimensional sines and cosines, the class token's row zero.
    Sincos,
}

/// How random weights begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Xavier uniform, q, k and v each on its own: MoCo v3's.
    Xavier,
    /// Normal of deviation 0.02, cut at two deviations: timm's and SimMIM's.
    Normal,
}

/// All that fixes a vision transformer's shapes and meaning.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VitConfig {
    /// Width of a token.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block; shapes do not tell it, so it is always written down.
    pub heads: usize,
    /// Hidden width of a block's MLP.
    pub mlp: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the image in pixels.
    pub image: usize,
    /// Kind of positions.
    pub position: Position,
    /// Register tokens between the class token and the patches (Darcet et al. 2023).
    #[serde(default, skip_serializing_if = "is_default")]
    pub registers: usize,
    /// What LayerScale's factors of the branches begin with (1 where that is not known); 0 for a model without.
    #[serde(default, skip_serializing_if = "is_default")]
    pub layer_scale: f32,
    /// Epsilon of every layer norm.
    #[serde(default = "norm_eps", skip_serializing_if = "is_norm_eps")]
    pub norm_eps: f32,
    /// Mean of the training images' channels, values in 0..1.
    pub mean: [f32; 3],
    /// Deviation of the training images' channels.
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
    /// A model of these sizes without registers and LayerScale, with a head for every 64 of its width and ImageNet's statistics.
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

    /// Patches along a side.
    pub fn grid(&self) -> usize {
        self.image / self.patch
    }

    /// Patches of an image.
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Tokens before the patches: the class token and the registers.
    pub fn prefix(&self) -> usize {
        1 + self.registers
    }

    /// Tokens of an image.
    pub fn tokens(&self) -> usize {
        self.prefix() + self.patches()
    }

    /// Names and shapes of its parameters, as timm has them.
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

    /// The architecture's name; the heads are part of it, since shapes do not tell them.
    pub fn name(&self) -> String {
        let size = match Arch::named(self.width, self.depth) {
            Some(arch) => arch.to_string(),
            None => format!("w{}d{}", self.width, self.depth),
        };
        let registers = if self.registers > 0 { format!("_reg{}", self.registers) } else { String::new() };
        let scale = if self.layer_scale != 0.0 { "_ls" } else { "" };
        format!("vit_{size}_h{}_patch{}{registers}{scale}_{}", self.heads, self.patch, self.image)
    }

    /// Multiply-adds of one image's forward pass, twice (FLOP), attention included, where `read` tokens are asked of the last block.
    pub fn forward_flop(&self, read: usize) -> f64 {
        let (n, d, mlp) = (self.tokens() as f64, self.width as f64, self.mlp as f64);
        let (attention, after) = (n * 3.0 * d * d + 2.0 * n * n * d, d * d + 2.0 * d * mlp);
        2.0 * (self.depth as f64 * attention + ((self.depth - 1) as f64 * n + read as f64) * after) + self.embedding_flop()
    }

    /// The patch embedding's part of it.
    pub fn embedding_flop(&self) -> f64 {
        2.0 * self.patches() as f64 * self.width as f64 * (CHANNELS * self.patch * self.patch) as f64
    }
}

/// A vision transformer's parameters by their places in a [`Parameters`].
#[derive(Clone)]
pub struct Vit {
    /// Its sizes.
    pub config: VitConfig,
    patch: Layer,
    prefix: Prefix,
    positions: ParameterId,
    blocks: Vec<Block>,
    norm: Norm,
}

#[derive(Clone, Copy)]
struct Block {
    norm1: Norm,
    qkv: Layer,
    proj: Layer,
    norm2: Norm,
    fc1: Layer,
    fc2: Layer,
    gammas: [Option<ParameterId>; 2],
}

/// How one forward pass runs.
#[derive(Clone, Default)]
pub struct Forward {
    /// Patches to hide behind the mask token.
    pub masked: Option<Masked>,
    /// Drop path: the rate of the last block (the first has 0, linear between) and the key (seed, step) of its draws.
    pub drop_path: Option<(f32, u64, u64)>,
    /// Blocks to run; all unless told.
    pub blocks: Option<usize>,
    /// Token rows of the result, in rising order; all unless told. The last block works out these alone once its attention is done.
    pub rows: Option<Arc<[usize]>>,
    /// Keep each block's input alone and run it once more in the backward pass.
    pub recompute: bool,
}

impl Vit {
    /// Adds the model's parameters, zeros, to a table; names are timm's behind `prefix`.
    pub fn declare(config: &VitConfig, parameters: &mut Parameters, prefix: &str) -> Vit {
        let wanted = config.parameters();
        parameters.reserve(wanted.iter().map(|(_, shape)| &shape[..]));
        let add = |(name, shape): (String, Vec<usize>)| {
            let id = parameters.add(format!("{prefix}{name}"), &shape);
            (name, id)
        };
        let ids: BTreeMap<String, ParameterId> = wanted.into_iter().map(add).collect();
        let id = |name: String| ids[&name];
        let layer = |name: String| Layer { weight: id(format!("{name}.weight")), bias: Some(id(format!("{name}.bias"))) };
        let norm = |name: String| Norm { weight: id(format!("{name}.weight")), bias: id(format!("{name}.bias")), eps: config.norm_eps };
        let (class, registers, positions) = (id("cls_token".into()), ids.get("reg_token").copied(), id("pos_embed".into()));
        let blocks = (0..config.depth).map(|i| Block {
            norm1: norm(format!("blocks.{i}.norm1")),
            qkv: layer(format!("blocks.{i}.attn.qkv")),
            proj: layer(format!("blocks.{i}.attn.proj")),
            norm2: norm(format!("blocks.{i}.norm2")),
            fc1: layer(format!("blocks.{i}.mlp.fc1")),
            fc2: layer(format!("blocks.{i}.mlp.fc2")),
            gammas: ["ls1", "ls2"].map(|name| ids.get(&format!("blocks.{i}.{name}.gamma")).copied()),
        });
        for id in [Some(class), registers, Some(positions)].into_iter().flatten() {
            parameters.entry_mut(id).decay = 0.0; // positions and tokens are not matrices, whatever their shape
        }
        parameters.entry_mut(positions).trainable = config.position == Position::Learned;
        Vit {
            config: config.clone(),
            patch: layer("patch_embed.proj".into()),
            prefix: Prefix { class, registers },
            positions,
            blocks: blocks.collect(),
            norm: norm("norm".into()),
        }
    }

    /// The same parameters under norms of another epsilon.
    pub fn with_norm_eps(&self, eps: f32) -> Vit {
        let mut vit = self.clone();
        vit.config.norm_eps = eps;
        vit.norm.eps = eps;
        for block in &mut vit.blocks {
            (block.norm1.eps, block.norm2.eps) = (eps, eps);
        }
        vit
    }

    /// Random weights; zeros for biases, ones for norms.
    pub fn initialise(&self, parameters: &mut Parameters, start: Start, seed: u64) {
        let (d, mlp) = (self.config.width, self.config.mlp);
        let rng = &mut keyed(seed, Purpose::Init, 0, 0);
        let columns = CHANNELS * self.config.patch * self.config.patch;
        let matrix = |values: &mut [f32], inputs, outputs, rng: &mut _| match start {
            Start::Xavier => xavier_uniform(values, inputs, outputs, rng),
            Start::Normal => truncated_normal(values, 0.02, rng),
        };
        match start {
            Start::Xavier => xavier_uniform(parameters.get_mut(self.patch.weight), columns, d, rng),
            Start::Normal => linear_uniform(parameters.get_mut(self.patch.weight), columns, rng), // as PyTorch begins a convolution
        }
        truncated_normal(parameters.get_mut(self.prefix.class), if start == Start::Xavier { 1e-6 } else { 0.02 }, rng);
        match self.config.position {
            Position::Learned => truncated_normal(parameters.get_mut(self.positions), 0.02, rng),
            Position::Sincos => sincos_positions(parameters.get_mut(self.positions), self.config.grid(), d),
        }
        for block in &self.blocks {
            for third in parameters.get_mut(block.qkv.weight).chunks_exact_mut(d * d) {
                matrix(third, d, d, rng);
            }
            matrix(parameters.get_mut(block.proj.weight), d, d, rng);
            matrix(parameters.get_mut(block.fc1.weight), d, mlp, rng);
            matrix(parameters.get_mut(block.fc2.weight), mlp, d, rng);
            parameters.get_mut(block.norm1.weight).fill(1.0);
            parameters.get_mut(block.norm2.weight).fill(1.0);
        }
        parameters.get_mut(self.norm.weight).fill(1.0);
        for gamma in self.blocks.iter().flat_map(|block| block.gammas).flatten() {
            parameters.get_mut(gamma).fill(self.config.layer_scale);
        }
        if let Some(registers) = self.prefix.registers {
            truncated_normal(parameters.get_mut(registers), if start == Start::Xavier { 1e-6 } else { 0.02 }, rng);
        }
    }

    /// Keeps the patch embedding as it is (MoCo v3's stable variant: random and frozen).
    pub fn freeze_patch_embedding(&self, parameters: &mut Parameters) {
        for id in [Some(self.patch.weight), self.patch.bias].into_iter().flatten() {
            parameters.entry_mut(id).trainable = false;
        }
    }

    /// Where each image's tokens begin: [batch + 1].
    pub fn offsets(&self, batch: usize) -> Arc<[usize]> {
        (0..=batch).map(|i| i * self.config.tokens()).collect()
    }

    /// Rows of the class tokens: `[batch]`.
    pub fn class_rows(&self, batch: usize) -> Arc<[usize]> {
        self.offsets(batch)[..batch].into()
    }

    /// Images [batch, 3, size, size] in 0..1 -> tokens after the final norm [batch · tokens, width], class token and registers first; with
    /// `how.rows` these rows of them.
    pub fn forward<'a>(&self, tape: &mut Tape<'a>, images: &Tensor, how: &Forward) -> Var {
        let batch = images.dims()[0];
        let offsets = self.offsets(batch);
        let hidden = how.masked.as_ref().map(|masked| &masked.places[..]);
        let patches = tape.patch_embed(images, &self.config.mean, &self.config.std, self.patch, hidden);
        let mut x = tape.tokens(&patches, batch, self.prefix, self.positions, how.masked.clone());
        let depth = how.blocks.unwrap_or(self.blocks.len());
        for (i, block) in self.blocks[..depth].iter().enumerate() {
            let drops = how.drop_path.map_or([None, None], |(rate, seed, step)| {
                let rate = rate * i as f32 / (self.blocks.len() - 1).max(1) as f32;
                [0, 1].map(|branch| drop_path(rate, &offsets, seed, step, (2 * i + branch) as u64))
            });
            let (block, offsets, heads) = (*block, offsets.clone(), self.config.heads);
            let rows = how.rows.clone().filter(|_| i + 1 == depth);
            let run = move |tape: &mut Tape<'a>, x: &Var| block.forward(tape, x, &offsets, heads, drops.clone(), rows.as_ref());
            x = if how.recompute { tape.recompute(&x, run) } else { run(tape, &x) };
        }
        tape.layer_norm(&x, self.norm)
    }
}

impl Block {
    /// x + attention(norm1(x)), then x + mlp(norm2(x)); of all rows, or of those that are asked for.
    fn forward(
        &self,
        tape: &mut Tape<'_>,
        x: &Var,
        offsets: &Arc<[usize]>,
        heads: usize,
        [mut drop1, mut drop2]: [Option<DropPath>; 2],
        rows: Option<&Arc<[usize]>>,
    ) -> Var {
        let y = tape.norm_linear(x, self.norm1, self.qkv, drop1.as_ref());
        let mut y = tape.attention(&y, drop1.as_ref().map_or(offsets, |drop| &drop.offsets), heads);
        let mut x = x.clone();
        if let Some(rows) = rows {
            x = tape.select_rows(&x, rows);
            let (drop, places) = drop1.map(|drop| drop.among(rows)).unzip();
            y = tape.select_rows(&y, places.as_ref().unwrap_or(rows));
            (drop1, drop2) = (drop, drop2.map(|drop| drop.among(rows).0));
        }
        let [gamma1, gamma2] = self.gammas;
        let x = tape.linear_residual(&x, &y, self.proj, Residual { gamma: gamma1, drop_path: drop1.as_ref() });
        tape.mlp(&x, self.norm2, [self.fc1, self.fc2], Residual { gamma: gamma2, drop_path: drop2.as_ref() })
    }
}

/// Each image keeps the branch with probability 1 - rate, scaled to keep the mean.
fn drop_path(rate: f32, offsets: &[usize], seed: u64, step: u64, place: u64) -> Option<DropPath> {
    if rate == 0.0 {
        return None;
    }
    let mut rng = keyed(seed, Purpose::DropPath, step, place);
    Some(DropPath::new(1.0 / (1.0 - rate), offsets, |_| unit(&mut rng) >= rate))
}

/// Two-dimensional sines and cosines of temperature 10,000: a quarter of the width each for sin x, cos x, sin y, cos y;
/// the class token's row is zero. [1 + grid², width]
fn sincos_positions(positions: &mut [f32], grid: usize, width: usize) {
    positions.fill(0.0);
    let quarter = width / 4;
    for (place, row) in positions.chunks_exact_mut(width).skip(1).enumerate() {
        let (y, x) = (place / grid, place % grid);
        for i in 0..quarter {
            let frequency = 10_000f64.powf(-(i as f64) / quarter as f64);
            let (ax, ay) = (x as f64 * frequency, y as f64 * frequency);
            row[i] = ax.sin() as f32;
            row[quarter + i] = ax.cos() as f32;
            row[2 * quarter + i] = ay.sin() as f32;
            row[3 * quarter + i] = ay.cos() as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_rows_are_what_they_are_among_all() {
        let config = VitConfig { heads: 2, registers: 2, layer_scale: 0.5, ..VitConfig::plain(24, 3, 40, 4, 12) };
        let mut parameters = Parameters::new();
        let vit = Vit::declare(&config, &mut parameters, "");
        vit.initialise(&mut parameters, Start::Xavier, 1);
        let pixels: Vec<f32> = (0..5 * 432).map(|i| (i * 37 % 101) as f32 / 100.0).collect();
        let images = Tensor::from_slice([5, 3, 12, 12], &pixels);
        for drop_path in [None, Some((0.9, 1, 2))] {
            let forward = |rows| {
                let how = Forward { rows, drop_path, ..Forward::default() };
                vit.forward(&mut Tape::inference(&parameters), &images, &how).value
            };
            let all = forward(None);
            let rows = [0, 3, 12, 13, 29, 40, 59];
            let some = forward(Some(rows[..].into()));
            assert_eq!(some.dims(), [7, 24]);
            for (some, row) in some.data().chunks_exact(24).zip(rows) {
                let all = &all.data()[row * 24..][..24];
                assert!(some.iter().zip(all).all(|(a, b)| (a - b).abs() < 1e-5), "row {row}");
            }
        }
    }

    #[test]
    fn positions_are_sines_and_cosines_of_both_axes() {
        let mut positions = vec![9.0; 5 * 8];
        sincos_positions(&mut positions, 2, 8);
        assert_eq!(positions[..8], [0.0; 8]);
        // The patch at row 1, column 0: frequencies 1 and 1/100.
        let row = &positions[3 * 8..4 * 8];
        let expected = [0.0, 0.0, 1.0, 1.0, 1f64.sin(), 0.01f64.sin(), 1f64.cos(), 0.01f64.cos()];
        assert!(row.iter().zip(expected).all(|(a, b)| (*a as f64 - b).abs() < 1e-6), "{row:?}");
    }
}
