//! The vision transformer of Dosovitskiy et al. (2021) with pre-norm blocks and timm's parameter names.

use super::initialize::{linear_uniform, truncated_normal, xavier_uniform};
use super::tokens::{TokenRows, Tokens};
use super::vit_config::CHANNELS;
pub use super::vit_config::{IMAGENET_MEAN, IMAGENET_STD, NORM_EPS, Position, VitConfig};
pub(crate) use super::vit_config::{LARGEST_IMAGE, MAX_PATCHES};
use mimco_data::random::{Purpose, keyed, unit};
use mimco_engine::ops::{DropPath, Layer, Masked, Norm, Prefix, Residual};
use mimco_engine::{ParameterId, Parameters, Tape, Tensor, Var};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Distribution of the initial weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Initialization {
    /// Xavier uniform, with q, k and v as separate matrices: MoCo v3's.
    Xavier,
    /// Normal with std 0.02, truncated at two std: timm's and SimMIM's.
    Normal,
}

/// A vision transformer: its sizes and the ids of its parameters.
#[derive(Clone)]
pub struct Vit {
    /// Sizes of the model.
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

/// Options of a forward pass.
#[derive(Clone, Default)]
pub struct ForwardOptions {
    /// Patches that the mask token replaces.
    pub masked: Option<Masked>,
    /// Drop path, if any.
    pub drop_path: Option<DropPathOptions>,
    /// Number of blocks to run; all of them where this is `None`.
    pub blocks: Option<usize>,
    /// Tokens to compute after the last block's attention.
    pub rows: TokenRows,
    /// Whether each block keeps only its input and runs again in the backward pass.
    pub recompute: bool,
}

/// Drop path of a forward pass (Huang et al. 2016).
#[derive(Clone, Copy)]
pub struct DropPathOptions {
    /// Rate of the last block; it rises linearly from 0 at the first.
    pub rate: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Key of this pass among those of the run.
    pub draw: u64,
}

impl Vit {
    /// Adds the model's parameters to a table, as zeros. Names are `prefix` and timm's name.
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
            parameters.entry_mut(id).decay = 0.0; // positions and tokens are not weight matrices
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

    /// Returns the same model with another epsilon in every norm.
    pub fn with_norm_eps(&self, eps: f32) -> Vit {
        let mut vit = self.clone();
        vit.config.norm_eps = eps;
        vit.norm.eps = eps;
        for block in &mut vit.blocks {
            (block.norm1.eps, block.norm2.eps) = (eps, eps);
        }
        vit
    }

    /// Sets random weights keyed by the seed; biases to 0, norms to 1.
    pub fn initialize(&self, parameters: &mut Parameters, start: Initialization, seed: u64) {
        let (d, mlp) = (self.config.width, self.config.mlp);
        let rng = &mut keyed(seed, Purpose::Init, 0, 0);
        let columns = CHANNELS * self.config.patch * self.config.patch;
        let token_std = if start == Initialization::Xavier { 1e-6 } else { 0.02 };
        let matrix = |values: &mut [f32], inputs, outputs, rng: &mut _| match start {
            Initialization::Xavier => xavier_uniform(values, inputs, outputs, rng),
            Initialization::Normal => truncated_normal(values, 0.02, rng),
        };
        parameters.update_on_host(self.patch.weight, |values| match start {
            Initialization::Xavier => xavier_uniform(values, columns, d, rng),
            Initialization::Normal => linear_uniform(values, columns, rng), // PyTorch's default for convolutions
        });
        parameters.update_on_host(self.prefix.class, |values| truncated_normal(values, token_std, rng));
        parameters.update_on_host(self.positions, |values| match self.config.position {
            Position::Learned => truncated_normal(values, 0.02, rng),
            Position::Sincos => sincos_positions(values, self.config.grid(), d),
        });
        for block in &self.blocks {
            parameters.update_on_host(block.qkv.weight, |qkv| qkv.chunks_exact_mut(d * d).for_each(|one| matrix(one, d, d, rng)));
            parameters.update_on_host(block.proj.weight, |values| matrix(values, d, d, rng));
            parameters.update_on_host(block.fc1.weight, |values| matrix(values, d, mlp, rng));
            parameters.update_on_host(block.fc2.weight, |values| matrix(values, mlp, d, rng));
        }
        let norms = self.blocks.iter().flat_map(|block| [block.norm1, block.norm2]).chain([self.norm]);
        for norm in norms {
            parameters.update_on_host(norm.weight, |values| values.fill(1.0));
        }
        for gamma in self.blocks.iter().flat_map(|block| block.gammas).flatten() {
            parameters.update_on_host(gamma, |values| values.fill(self.config.layer_scale));
        }
        if let Some(registers) = self.prefix.registers {
            parameters.update_on_host(registers, |values| truncated_normal(values, token_std, rng));
        }
    }

    /// Excludes the patch embedding from training (MoCo v3's stable variant).
    pub fn freeze_patch_embedding(&self, parameters: &mut Parameters) {
        for id in [Some(self.patch.weight), self.patch.bias].into_iter().flatten() {
            parameters.entry_mut(id).trainable = false;
        }
    }

    /// Computes the tokens of images [batch, 3, size, size] with values in 0..1, after the final norm.
    ///
    /// # Panics
    /// Where images or mask are of another size than the model's.
    pub fn forward<'a>(&self, tape: &mut Tape<'a>, images: &Tensor, options: &ForwardOptions) -> Tokens {
        let (batch, config) = (images.dims()[0], &self.config);
        let layout = Tokens::layout(batch, config.prefix(), config.grid(), &options.rows);
        let offsets: Arc<[usize]> = (0..=batch).map(|image| image * config.tokens()).collect();
        let masked = options.masked.as_ref().map(|masked| &masked.masked[..]);
        let patches = tape.patch_embed(images, &config.mean, &config.std, self.patch, masked); // [seen, width]
        let mut x = tape.tokens(&patches, batch, self.prefix, self.positions, options.masked.clone()); // [batch · tokens, width]
        let depth = options.blocks.unwrap_or(self.blocks.len());
        for (i, block) in self.blocks[..depth].iter().enumerate() {
            let drops = [0, 1].map(|branch| self.drop_path(&offsets, i, branch, options.drop_path));
            let (block, offsets, heads) = (*block, offsets.clone(), config.heads);
            let rows = layout.rows.clone().filter(|_| i + 1 == depth);
            let run = move |tape: &mut Tape<'a>, x: &Var| block.forward(tape, x, &offsets, heads, drops.clone(), rows.as_ref());
            x = if options.recompute { tape.recompute(&x, run) } else { run(tape, &x) };
        }
        let x = tape.layer_norm(&x, self.norm);
        layout.tokens(x)
    }

    /// Draws the images that keep a branch, each with probability 1 - rate; the branch is scaled by 1 / (1 - rate).
    fn drop_path(&self, offsets: &[usize], block: usize, branch: usize, options: Option<DropPathOptions>) -> Option<DropPath> {
        let options = options?;
        let rate = options.rate * block as f32 / (self.blocks.len() - 1).max(1) as f32;
        if rate == 0.0 {
            return None;
        }
        let mut rng = keyed(options.seed, Purpose::DropPath, options.draw, (2 * block + branch) as u64);
        Some(DropPath::new(1.0 / (1.0 - rate), offsets, |_| unit(&mut rng) >= rate))
    }
}

impl Block {
    /// Computes x + attention(norm1(x)), then x + mlp(norm2(x)), for all rows or those given.
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

/// Fills position embeddings [1 + grid², width] with sines and cosines of temperature 10,000: a quarter
/// of the width each for sin x, cos x, sin y, cos y. The class token's row is zero.
fn sincos_positions(positions: &mut [f32], grid: usize, width: usize) {
    positions.fill(0.0);
    let quarter = width / 4;
    for (patch, row) in positions.chunks_exact_mut(width).skip(1).enumerate() {
        let (y, x) = (patch / grid, patch % grid);
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
        vit.initialize(&mut parameters, Initialization::Xavier, 1);
        let pixels: Vec<f32> = (0..5 * 432).map(|i| (i * 37 % 101) as f32 / 100.0).collect();
        let images = Tensor::from_slice([5, 3, 12, 12], &pixels);
        let chosen: Arc<[bool]> = (0..45).map(|patch| [0, 8, 9, 20, 44].contains(&patch)).collect();
        for drop_path in [None, Some(DropPathOptions { rate: 0.9, seed: 1, draw: 2 })] {
            let features = |rows| {
                let options = ForwardOptions { rows, drop_path, ..ForwardOptions::default() };
                let tape = &mut Tape::inference(&parameters);
                let tokens = vit.forward(tape, &images, &options);
                [tokens.class(tape).value, tokens.patches(tape, &chosen).value].map(|x| x.to_host().into_owned())
            };
            let (all, some) = (features(TokenRows::All), features(TokenRows::ClassAnd(chosen.clone())));
            assert_eq!([some[0].len(), some[1].len()], [5 * 24, 5 * 24]);
            for (some, all) in some.iter().flatten().zip(all.iter().flatten()) {
                assert!((some - all).abs() < 1e-5, "{some} for {all}");
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
