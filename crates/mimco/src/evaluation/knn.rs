//! Nearest neighbours by cosine similarity, DINO's protocol (Caron et al. 2021, `eval_knn.py`).

use super::checks::{check_sets, percent_right};
use super::features::Features;
use crate::Error;
use mimco_engine::cpu::buffer::Buffer;
use mimco_engine::cpu::gemm::{Matrix, matmul_serial};
use mimco_engine::cpu::threads::for_each_chunk;
use std::cmp::Ordering;

/// Validation rows that one worker takes at a time.
const BLOCK: usize = 128;
/// Training rows that they are compared with at a time: similarities [128, 2048] stay in cache, whatever the size of the sets.
const TILE: usize = 2048;

/// Accuracy in percent of the vote of each validation image's `k` nearest training images.
///
/// Similarity is the cosine of the features [rows, width]; a neighbour votes for its class with exp(similarity / temperature). Among
/// equals the first training image is nearer and the lower class wins. `k` is cut to the size of the training set.
///
/// # Errors
/// `k` of 0, a temperature that is not above 0, sets that are empty or do not fit each other or their labels.
pub fn knn_top1(
    train: &Features,
    train_labels: &[u32],
    val: &Features,
    val_labels: &[u32],
    classes: usize,
    k: usize,
    temperature: f64,
) -> Result<f64, Error> {
    if k == 0 {
        return Err(Error::Setting("k is 0; give the number of neighbours to ask, such as --k 20".into()));
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(Error::Setting(format!("the temperature is {temperature}; give one above 0, such as --temperature 0.07")));
    }
    check_sets(train, train_labels, val, val_labels, classes)?;
    let (k, width) = (k.min(train.rows()), train.width());
    let (train, val) = (normalised(train), normalised(val));
    let mut predicted = vec![0u32; val_labels.len()];
    for_each_chunk(&mut predicted, BLOCK, |block, predicted| {
        let rows = predicted.len();
        let queries = Matrix::new(&val[block * BLOCK * width..][..rows * width], rows, width);
        let mut nearest: Vec<Nearest> = (0..rows).map(|_| Nearest::new(k)).collect();
        let mut scratch = Buffer::uninit(rows * TILE);
        for (tile, keys) in train.chunks(TILE * width).enumerate() {
            let count = keys.len() / width;
            let similarities = &mut scratch[..rows * count]; // [rows, count]
            matmul_serial(similarities, queries, Matrix::new(keys, count, width).t(), false);
            for (nearest, similarities) in nearest.iter_mut().zip(similarities.chunks_exact(count)) {
                nearest.offer(similarities, tile * TILE);
            }
        }
        for (predicted, nearest) in predicted.iter_mut().zip(nearest) {
            *predicted = vote(&nearest.finish(), train_labels, classes, temperature);
        }
    });
    Ok(percent_right(&predicted, val_labels))
}

/// Rows divided by their length; rows of zeros stay zero.
fn normalised(features: &Features) -> Vec<f32> {
    let mut data = features.data().to_vec();
    for_each_chunk(&mut data, features.width().max(1), |_, row| {
        let length = row.iter().map(|&v| v as f64 * v as f64).sum::<f64>().sqrt();
        let inverse = (1.0 / length.max(1e-12)) as f32;
        row.iter_mut().for_each(|v| *v *= inverse);
    });
    data
}

/// The k most similar of the training rows seen so far.
struct Nearest {
    k: usize,
    /// Similarity and training row; up to 2k of them, so that choosing is rare.
    candidates: Vec<(f32, u32)>,
    /// Similarity of the k-th once there are k: a later row must be above it.
    floor: f32,
}

/// More similar first, then the lower row: a total order, so the k nearest do not depend on how they are sought.
fn nearer(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

impl Nearest {
    fn new(k: usize) -> Nearest {
        Nearest { k, candidates: Vec::new(), floor: f32::NEG_INFINITY }
    }

    /// Takes the similarities of training rows `first`, `first + 1`, ...
    fn offer(&mut self, similarities: &[f32], first: usize) {
        for (i, &similarity) in similarities.iter().enumerate() {
            if similarity > self.floor {
                self.candidates.push((similarity, (first + i) as u32));
                if self.candidates.len() >= 2 * self.k {
                    self.choose();
                }
            }
        }
    }

    fn choose(&mut self) {
        if self.candidates.len() >= self.k {
            let (_, kth, _) = self.candidates.select_nth_unstable_by(self.k - 1, nearer);
            self.floor = kth.0;
            self.candidates.truncate(self.k);
        }
    }

    /// The k nearest, in order.
    fn finish(mut self) -> Vec<(f32, u32)> {
        self.choose();
        self.candidates.sort_unstable_by(nearer);
        self.candidates
    }
}

/// The class with the largest sum of exp(similarity / temperature); the lower one among equals.
fn vote(nearest: &[(f32, u32)], labels: &[u32], classes: usize, temperature: f64) -> u32 {
    let mut sums = vec![0.0f64; classes];
    let top = nearest.first().map_or(0.0, |n| n.0 as f64);
    for &(similarity, row) in nearest {
        // The nearest one's factor is taken out of all: a small temperature must not overflow.
        sums[labels[row as usize] as usize] += ((similarity as f64 - top) / temperature).exp();
    }
    let best = sums.iter().enumerate().fold((0, f64::NEG_INFINITY), |best, (class, &sum)| if sum > best.1 { (class, sum) } else { best });
    best.0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random, in -1..1.
    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mix = |i: u64| (i ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (0..n as u64).map(|i| (mix(i) >> 40) as f32 / (1u32 << 23) as f32 - 1.0).collect()
    }

    /// The protocol word for word: all similarities, sorted.
    fn plain(train: &Features, labels: &[u32], val: &Features, classes: usize, k: usize, temperature: f64) -> Vec<u32> {
        let cosine = |a: &[f32], b: &[f32]| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| *x as f64 * *y as f64).sum::<f64>();
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        (0..val.rows())
            .map(|v| {
                let mut all: Vec<(f64, usize)> = (0..train.rows()).map(|t| (cosine(train.row(t), val.row(v)), t)).collect();
                all.sort_by(|a, b| b.0.total_cmp(&a.0));
                let mut sums = vec![0.0; classes];
                all[..k].iter().for_each(|(s, t)| sums[labels[*t] as usize] += (s / temperature).exp());
                (0..classes).fold(0, |best, c| if sums[c] > sums[best] { c } else { best }) as u32
            })
            .collect()
    }

    #[test]
    fn predictions_are_the_plain_protocols() {
        let (train, val) = (Features::new(6, noise(6 * (TILE + 90), 1)), Features::new(6, noise(6 * (BLOCK + 9), 2)));
        let labels: Vec<u32> = (0..train.rows() as u32).map(|i| i * i % 5).collect();
        for (k, temperature) in [(1, 0.07), (20, 0.07), (200, 1.0)] {
            let expected = plain(&train, &labels, &val, 5, k, temperature);
            let same = knn_top1(&train, &labels, &val, &expected, 5, k, temperature).unwrap();
            assert!(same > 99.0, "{same} % as by the plain protocol, k = {k}"); // f32 may turn a near tie
        }
    }

    #[test]
    fn ties_go_to_the_first_row_and_the_lower_class() {
        let train = Features::new(2, vec![1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        let val = Features::new(2, vec![2.0, 0.0]);
        let right = |labels: &[u32], k, expected| knn_top1(&train, labels, &val, &[expected], 3, k, 0.1).unwrap() == 100.0;
        assert!(right(&[2, 1, 0], 1, 2)); // the first row is nearest
        assert!(right(&[2, 1, 1], 2, 1)); // one vote each
        assert!(right(&[2, 1, 1], 50, 1)); // k cut to 3
    }

    #[test]
    fn small_temperatures_and_zero_rows_do_no_harm() {
        let train = Features::new(2, vec![1.0, 0.1, 0.0, 1.0, 0.0, 0.0]);
        let val = Features::new(2, vec![1.0, 0.0, 0.0, 0.0]);
        assert_eq!(knn_top1(&train, &[1, 0, 0], &val, &[1, 0], 2, 3, 1e-6).unwrap(), 100.0);
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let one = Features::new(1, vec![1.0]);
        for (k, temperature) in [(0, 0.07), (1, 0.0), (1, -1.0), (1, f64::NAN)] {
            assert!(knn_top1(&one, &[0], &one, &[0], 1, k, temperature).unwrap_err().is_misuse());
        }
    }
}
