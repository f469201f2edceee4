//! InfoNCE: cross entropy of cosine similarities over a temperature, the keys being constants (a momentum encoder's, a frozen
//! teacher's). For row i with candidates C(i):
//!
//! loss = mean over i of -log( exp(q̂ᵢ·k̂ₚ / τ) / Σ over j in C(i) of exp(q̂ᵢ·k̂ⱼ / τ) ),   q̂ = q / |q|, k̂ = k / |k|
//!
//! Queries come in groups of equal size, each with its own candidates (image negatives: one group an image; batch negatives: one
//! group). The gradient is worked out with the loss, block by block of rows, so logits never leave the cache: with p the softmax,
//! dq̂ᵢ = (Σ pⱼ k̂ⱼ - k̂ₚ) / (τ rows), then dq = (dq̂ - q̂ (q̂·dq̂)) / |q|.

use crate::cpu::buffer::Buffer;
use crate::cpu::gemm::{Matrix, matmul_serial};
use crate::cpu::threads::{Parts, for_each_chunk, parallel};
use crate::cpu::vector::{dot, exp, max, sum_by, wide};
use crate::{Tape, Tensor, Var};

/// Rows a block.
const ROWS: usize = 32;
/// Norms below it count as it, as PyTorch's `normalize` has it.
const EPS: f32 = 1e-12;

/// Where the positive of each query is.
pub enum Candidates<'a> {
    /// `targets[i]` is the place of row i's positive among its group's keys.
    Among(&'a [u32]),
    /// `positives` [rows, width] stand beside the keys, which are all negatives.
    Beside(&'a Tensor),
}

/// The constants of an InfoNCE loss.
pub struct Contrast<'a> {
    /// [groups, candidates, width]
    pub keys: &'a Tensor,
    /// Where the positives are.
    pub candidates: Candidates<'a>,
    /// Owners of the rows and of one group's keys: a key of the row's own owner, other than its positive, is left out.
    pub owners: Option<(&'a [u64], &'a [u64])>,
    /// τ
    pub temperature: f32,
}

impl Tape<'_> {
    /// queries [groups · rows, width] against `contrast` -> the loss, a scalar, and the share of rows whose positive wins (ties count for
    /// the positive). Over no row the loss is 0.
    pub fn info_nce(&mut self, queries: &Var, contrast: &Contrast<'_>) -> (Var, f32) {
        let width = queries.value.width();
        let rows = queries.value.rows();
        let &[groups, candidates, key_width] = contrast.keys.dims() else { panic!("keys are [groups, candidates, width]") };
        assert_eq!(width, key_width, "queries and keys of one width");
        if rows == 0 {
            return (Var::constant(Tensor::scalar(0.0)), 0.0);
        }
        assert!(groups > 0 && rows.is_multiple_of(groups), "as many queries in each group");
        if let Some((row_owners, key_owners)) = contrast.owners {
            assert!(row_owners.len() == rows && key_owners.len() == candidates, "an owner for each row and key");
        }
        let (q, norms) = normalise(&queries.value);
        let (k, _) = normalise(contrast.keys);
        let positives = match contrast.candidates {
            Candidates::Among(_) => None,
            Candidates::Beside(positives) => {
                assert!(positives.rows() == rows && positives.width() == width, "a positive for each query");
                Some(normalise(positives).0)
            }
        };
        let wants = self.wants_gradient(&[queries], &[]);
        let mut gradient = Tensor::stale(if wants { [rows, width] } else { [0, width] });
        let mut row_results = vec![(0.0f64, false); rows];
        {
            let gradient = Parts::new(gradient.data_mut());
            let results = Parts::new(&mut row_results);
            let group_rows = rows / groups;
            let blocks = group_rows.div_ceil(ROWS);
            parallel(groups * blocks, |block| {
                let (group, first) = (block / blocks, block % blocks * ROWS);
                let n = ROWS.min(group_rows - first);
                let first = group * group_rows + first;
                let k = Matrix::new(&k.data()[group * candidates * width..][..candidates * width], candidates, width);
                let q_block = &q.data()[first * width..][..n * width];
                let mut logits = Buffer::stale(n * candidates);
                matmul_serial(&mut logits, Matrix::new(q_block, n, width), k.t(), false);
                // SAFETY: a block owns its rows.
                let results = unsafe { results.part(first, n) };
                let mut beside = [0.0f32; ROWS]; // the positive's softmax where it stands beside the keys
                for i in 0..n {
                    let row = first + i;
                    let logits = &mut logits[i * candidates..][..candidates];
                    let target = match contrast.candidates {
                        Candidates::Among(targets) => Target::Among(targets[row] as usize),
                        Candidates::Beside(_) => {
                            let p = positives.as_ref().map_or(&[][..], |p| &p.data()[row * width..][..width]);
                            Target::Beside(wide(
                                #[inline(always)]
                                || dot(&q_block[i * width..][..width], p),
                            ))
                        }
                    };
                    let own = contrast.owners.map(|(rows, keys)| (rows[row], keys));
                    (results[i], beside[i]) = softmax_row(logits, target, own, contrast.temperature);
                }
                if wants {
                    // SAFETY: a block owns its rows.
                    let d = unsafe { gradient.part(first * width, n * width) };
                    matmul_serial(d, Matrix::new(&logits, n, candidates), k, false);
                    for (i, d) in d.chunks_exact_mut(width).enumerate() {
                        let q = &q_block[i * width..][..width];
                        let scale = 1.0 / (contrast.temperature * rows as f32);
                        let positive = positives.as_ref().map(|p| &p.data()[(first + i) * width..][..width]);
                        wide(
                            #[inline(always)]
                            || {
                                if let Some(p) = positive {
                                    d.iter_mut().zip(p).for_each(|(d, p)| *d = p.mul_add(beside[i] - 1.0, *d));
                                }
                                let along = dot(q, d);
                                let scale = scale / norms[first + i];
                                d.iter_mut().zip(q).for_each(|(d, q)| *d = scale * (*d - q * along));
                            },
                        );
                    }
                }
            });
        }
        let loss = row_results.iter().map(|r| r.0).sum::<f64>() / rows as f64;
        let wins = row_results.iter().filter(|r| r.1).count() as f32 / rows as f32;
        let loss = Tensor::scalar(loss as f32);
        if !wants {
            return (Var::constant(loss), wins);
        }
        let node = queries.node();
        let loss = self.record(loss, move |d, pass| {
            let mut gradient = gradient;
            let d = d.item();
            const CHUNK: usize = 16 * 1024;
            for_each_chunk(gradient.data_mut(), CHUNK, |_, g| g.iter_mut().for_each(|g| *g *= d));
            pass.add(node, gradient);
        });
        (loss, wins)
    }
}

enum Target {
    Among(usize),
    Beside(f32),
}

/// Turns similarities into softmax minus the positive's 1 (where it is among them). Returns the row's loss, whether the positive
/// wins, and the softmax of a positive that stands beside.
fn softmax_row(row: &mut [f32], target: Target, own: Option<(u64, &[u64])>, temperature: f32) -> ((f64, bool), f32) {
    let skip = if let Target::Among(target) = target { Some(target) } else { None };
    if let Some((owner, keys)) = own {
        for (j, (s, &key)) in row.iter_mut().zip(keys).enumerate() {
            if key == owner && Some(j) != skip {
                *s = f32::NEG_INFINITY;
            }
        }
    }
    let positive = match target {
        Target::Among(target) => row[target],
        Target::Beside(similarity) => similarity,
    };
    wide(
        #[inline(always)]
        || {
            let top = max(row).max(positive);
            let inverse_temperature = 1.0 / temperature;
            row.iter_mut().for_each(|s| {
                let e = exp((*s - top) * inverse_temperature);
                *s = if *s == f32::NEG_INFINITY { 0.0 } else { e };
            });
            let positive_e = exp((positive - top) * inverse_temperature);
            let mut total = sum_by([row], |[e]| e);
            if skip.is_none() {
                total += positive_e;
            }
            let inverse = 1.0 / total;
            row.iter_mut().for_each(|s| *s *= inverse);
            if let Some(target) = skip {
                row[target] -= 1.0;
            }
            let loss = (total as f64).ln() - ((positive - top) * inverse_temperature) as f64;
            ((loss, positive >= top), positive_e * inverse)
        },
    )
}

/// Rows divided by their length, and the lengths.
fn normalise(x: &Tensor) -> (Tensor, Buffer) {
    let width = x.width();
    let rows = x.rows();
    let mut y = Tensor::stale([rows, width]);
    let mut norms = Buffer::stale(rows);
    {
        let norms = Parts::new(&mut norms);
        for_each_chunk(y.data_mut(), ROWS * width, |block, y| {
            for (i, y) in y.chunks_exact_mut(width).enumerate() {
                let row = block * ROWS + i;
                let x = &x.data()[row * width..][..width];
                // SAFETY: a block owns its rows.
                let norm = unsafe { norms.part(row, 1) };
                wide(
                    #[inline(always)]
                    || {
                        let length = dot(x, x).sqrt();
                        norm[0] = if length < EPS { EPS } else { length }; // keeps NaN, as `max` would not
                        let inverse = 1.0 / norm[0];
                        y.iter_mut().zip(x).for_each(|(y, x)| *y = x * inverse);
                    },
                );
            }
        });
    }
    (y, norms)
}
