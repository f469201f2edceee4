//! k-nearest-neighbor classification by cosine similarity, DINO's protocol (Caron et al. 2021,
//! `eval_knn.py`).

use super::checks::{check_sets, percent_correct};
use super::features::Features;
use crate::Error;
use mimco_engine::cpu::buffer::Buffer;
use mimco_engine::cpu::gemm::{Matrix, matmul_serial};
use mimco_engine::cpu::threads::for_each_chunk;
use std::cmp::Ordering;

/// Validation rows per work item of a thread.
const BLOCK: usize = 128;
/// Training rows per tile: similarities [128, 2048] stay in cache for any size of the sets.
const TILE: usize = 2048;

/// Returns the kNN accuracy on the validation set, in percent.
///
/// The similarity is the cosine of the features [rows, width]. Each of the `k` nearest training
/// images votes for its class with weight exp(similarity / temperature). Ties between neighbors go
/// to the first training image, ties between classes to the lower class. `k` is reduced to the size
/// of the training set.
///
/// ```
/// use mimco::evaluation::{features::Features, knn::knn_top1};
///
/// let train = Features::new(2, vec![1.0, 0.0, 0.9, 0.1, 0.0, 1.0]); // [3, 2]
/// let val = Features::new(2, vec![1.0, 0.2, 0.1, 1.0]); // [2, 2]
/// let top1 = knn_top1(&train, &[0, 0, 1], &val, &[0, 1], 2, 1, 0.07)?;
/// assert_eq!(top1, 100.0);
/// # Ok::<(), mimco::Error>(())
/// ```
///
/// # Errors
/// - `k` of 0, or a temperature that is not positive and finite.
/// - Empty sets, features of different widths, or features that are not finite.
/// - A number of labels other than the number of rows, or a label that is not below `classes`.
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
        return Err(Error::Setting("k is 0; set the number of neighbors, for example --k 20".into()));
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(Error::Setting(format!("the temperature is {temperature}; set a positive one, for example --temperature 0.07")));
    }
    check_sets(train, train_labels, val, val_labels, classes)?;
    let (k, width) = (k.min(train.rows()), train.width());
    let (train, val) = (normalized(train), normalized(val));
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
                nearest.add(similarities, tile * TILE);
            }
        }
        for (predicted, nearest) in predicted.iter_mut().zip(nearest) {
            *predicted = vote(&nearest.finish(), train_labels, classes, temperature);
        }
    });
    Ok(percent_correct(&predicted, val_labels))
}

/// Returns the rows divided by their L2 norm; rows of zeros stay zero.
fn normalized(features: &Features) -> Vec<f32> {
    let mut data = features.data().to_vec();
    for_each_chunk(&mut data, features.width().max(1), |_, row| {
        let norm = row.iter().map(|&v| v as f64 * v as f64).sum::<f64>().sqrt();
        let inverse = (1.0 / norm.max(1e-12)) as f32;
        row.iter_mut().for_each(|v| *v *= inverse);
    });
    data
}

/// Running selection of the k training rows most similar to one validation row.
struct Nearest {
    k: usize,
    /// Similarity and training row of up to 2k candidates, so that selection is rare.
    candidates: Vec<(f32, u32)>,
    /// Similarity of the k-th neighbor, once there are k. A later row must exceed it.
    floor: f32,
}

/// Orders by descending similarity, then by row. This order is total, so the k nearest do not
/// depend on the search.
fn by_similarity(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

impl Nearest {
    fn new(k: usize) -> Nearest {
        Nearest { k, candidates: Vec::new(), floor: f32::NEG_INFINITY }
    }

    /// Adds the similarities of training rows `first`, `first + 1`, ...
    fn add(&mut self, similarities: &[f32], first: usize) {
        for (i, &similarity) in similarities.iter().enumerate() {
            if similarity > self.floor {
                self.candidates.push((similarity, (first + i) as u32));
                if self.candidates.len() >= 2 * self.k {
                    self.select();
                }
            }
        }
    }

    /// Drops all but the k nearest.
    fn select(&mut self) {
        if self.candidates.len() >= self.k {
            let (_, kth, _) = self.candidates.select_nth_unstable_by(self.k - 1, by_similarity);
            self.floor = kth.0;
            self.candidates.truncate(self.k);
        }
    }

    /// Returns the k nearest, most similar first.
    fn finish(mut self) -> Vec<(f32, u32)> {
        self.select();
        self.candidates.sort_unstable_by(by_similarity);
        self.candidates
    }
}

/// Returns the class with the largest sum of exp(similarity / temperature), the lower class on a
/// tie.
fn vote(nearest: &[(f32, u32)], labels: &[u32], classes: usize, temperature: f64) -> u32 {
    let mut sums = vec![0.0f64; classes];
    let top = nearest.first().map_or(0.0, |n| n.0 as f64);
    for &(similarity, row) in nearest {
        // Subtracting the largest similarity prevents overflow at small temperatures.
        sums[labels[row as usize] as usize] += ((similarity as f64 - top) / temperature).exp();
    }
    let best = sums.iter().enumerate().fold((0, f64::NEG_INFINITY), |best, (class, &sum)| if sum > best.1 { (class, sum) } else { best });
    best.0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns `n` pseudorandom values in -1..1.
    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mix = |i: u64| (i ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (0..n as u64).map(|i| (mix(i) >> 40) as f32 / (1u32 << 23) as f32 - 1.0).collect()
    }

    /// Reference implementation of the protocol: sorts all similarities.
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
            assert!(same > 99.0, "{same} % agree with the reference, k = {k}"); // f32 may reorder near ties
        }
    }

    #[test]
    fn ties_go_to_the_first_row_and_the_lower_class() {
        let train = Features::new(2, vec![1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        let val = Features::new(2, vec![2.0, 0.0]);
        let right = |labels: &[u32], k, expected| knn_top1(&train, labels, &val, &[expected], 3, k, 0.1).unwrap() == 100.0;
        assert!(right(&[2, 1, 0], 1, 2)); // the first row is nearest
        assert!(right(&[2, 1, 1], 2, 1)); // one vote each
        assert!(right(&[2, 1, 1], 50, 1)); // k is reduced to 3
    }

    #[test]
    fn small_temperatures_and_zero_rows_are_handled() {
        let train = Features::new(2, vec![1.0, 0.1, 0.0, 1.0, 0.0, 0.0]);
        let val = Features::new(2, vec![1.0, 0.0, 0.0, 0.0]);
        assert_eq!(knn_top1(&train, &[1, 0, 0], &val, &[1, 0], 2, 3, 1e-6).unwrap(), 100.0);
    }

    #[test]
    fn invalid_settings_are_errors() {
        let one = Features::new(1, vec![1.0]);
        for (k, temperature) in [(0, 0.07), (1, 0.0), (1, -1.0), (1, f64::NAN)] {
            assert!(knn_top1(&one, &[0], &one, &[0], 1, k, temperature).unwrap_err().is_misuse());
        }
    }
}
