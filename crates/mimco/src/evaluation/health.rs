//! Health of features: effective rank, spread, and a warning when they collapse.

use super::features::Features;
use nalgebra::DMatrix;

/// Smallest number of features from which rank and spread are meaningful.
const MIN_ROWS: usize = 8;
/// Spread below which the features have collapsed to one direction.
const COLLAPSED_SPREAD: f64 = 0.02;
/// Spread below which the features may be collapsing.
const LOW_SPREAD: f64 = 0.1;
/// Effective rank below which the features have collapsed to a line.
const COLLAPSED_RANK: f64 = 1.5;
/// Share of the maximum rank below which the features may be collapsing.
const LOW_RANK_SHARE: f64 = 0.03;

/// Returns RankMe, the effective rank of the features [rows, width] (Garrido et al. 2023, eq. 1).
///
/// It is exp(-Σ p ln p) with p = σ / Σσ + 1e-7 over the singular values σ. The features are neither
/// centered nor normalized. The rank is between 1 and min(rows, width). It is NaN if there is no
/// feature or a value is not finite.
pub fn rankme(features: &Features) -> f64 {
    let (rows, width) = (features.rows(), features.width());
    if rows == 0 || !features.data().iter().all(|v| v.is_finite()) {
        return f64::NAN; // the eigenvalue iteration would not end
    }
    let transposed = DMatrix::from_iterator(width, rows, features.data().iter().map(|&v| v as f64)); // [width, rows], column-major
    let gram = if width <= rows { &transposed * transposed.transpose() } else { transposed.transpose() * &transposed };
    let singular: Vec<f64> = gram.symmetric_eigenvalues().iter().map(|e| e.max(0.0).sqrt()).collect();
    let sum = singular.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let entropy: f64 = singular.iter().map(|s| s / sum + 1e-7).map(|p| -p * p.ln()).sum();
    entropy.exp()
}

/// Returns the spread of the features [rows, width] (Chen and He 2021, figure 2).
///
/// It is the std of each column of the L2-normalized features, averaged over the columns, times
/// sqrt(width). It is 1 for directions spread uniformly and 0 for a single direction. It is NaN if
/// there is no feature or a value is not finite.
pub fn feature_std(features: &Features) -> f64 {
    let (rows, width) = (features.rows(), features.width());
    let mut sums = vec![(0.0f64, 0.0f64); width];
    for row in features.data().chunks_exact(width.max(1)) {
        let norm = row.iter().map(|&v| v as f64 * v as f64).sum::<f64>().sqrt();
        let scale = if norm == 0.0 { 0.0 } else { 1.0 / norm };
        for ((sum, squares), &v) in sums.iter_mut().zip(row) {
            let v = v as f64 * scale;
            *sum += v;
            *squares += v * v;
        }
    }
    let n = rows as f64;
    let variance = |(sum, squares): &(f64, f64)| squares / n - (sum / n) * (sum / n);
    // `f64::max` would turn NaN into 0.
    let std = |v: f64| if v < 0.0 { 0.0 } else { v.sqrt() };
    sums.iter().map(variance).map(std).sum::<f64>() / width as f64 * (width as f64).sqrt()
}

/// Returns a warning if features [rows, width] have collapsed or may be collapsing.
///
/// `rank` is from [`rankme`] and `spread` from [`feature_std`]. The thresholds are ours.
pub fn collapse_warning(rank: f64, spread: f64, rows: usize, width: usize) -> Option<String> {
    if rows == 0 {
        return None;
    }
    if !rank.is_finite() || !spread.is_finite() {
        return Some("features are not finite: the training has diverged; lower optim.lr and resume from an earlier checkpoint".into());
    }
    if rows < MIN_ROWS {
        return None;
    }
    let max_rank = rows.min(width);
    let figures = format!("effective rank {rank:.1} of {max_rank}, spread {spread:.3} of 1");
    if rank < COLLAPSED_RANK.min(max_rank as f64) || spread < COLLAPSED_SPREAD {
        return Some(format!(
            "features have collapsed ({figures}): the model maps all images to similar features; start again with a lower optim.lr, \
             a longer warm-up or a larger train.batch_size"
        ));
    }
    (rank < LOW_RANK_SHARE * max_rank as f64 || spread < LOW_SPREAD).then(|| {
        format!(
            "features may be collapsing ({figures}); if this continues, lower optim.lr, lengthen the warm-up or \
             raise train.batch_size"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns features [rows, width] with the elements `value(row, column)`.
    fn features(rows: usize, width: usize, value: impl Fn(usize, usize) -> f32) -> Features {
        Features::new(width, (0..rows * width).map(|i| value(i / width, i % width)).collect())
    }

    #[test]
    fn rank_counts_directions() {
        let axes = |rows, width| features(rows, width, |r, c| if r % width == c { 3.0 } else { 0.0 });
        assert!((rankme(&axes(32, 32)) - 32.0).abs() < 1e-2);
        assert!((rankme(&axes(64, 32)) - 32.0).abs() < 1e-2);
        assert!((rankme(&features(8, 50, |r, c| if r == c { 1.0 } else { 0.0 })) - 8.0).abs() < 1e-2);
        let line = features(40, 30, |r, c| (r + 1) as f32 * (c as f32 - 7.5));
        assert!((rankme(&line) - 1.0).abs() < 1e-3, "{}", rankme(&line));
        // σ = 3 and 1: p = 3/4, 1/4.
        let two = Features::new(2, vec![3.0, 0.0, 0.0, 1.0]);
        let entropy = 0.75f64 * (4.0f64 / 3.0).ln() + 0.25 * 4.0f64.ln();
        assert!((rankme(&two) - entropy.exp()).abs() < 1e-5);
        assert!(rankme(&Features::new(1, vec![f32::NAN])).is_nan());
    }

    #[test]
    fn spread_is_one_in_all_directions_and_zero_in_one() {
        let both_ways = features(64, 32, |r, c| if r / 2 == c { 1.0 - 2.0 * (r % 2) as f32 } else { 0.0 });
        assert!((feature_std(&both_ways) - 1.0).abs() < 1e-9);
        assert!(feature_std(&features(20, 8, |r, c| (r + 1) as f32 * (c + 1) as f32)) < 1e-6);
        assert!(feature_std(&Features::new(1, vec![f32::NAN, 1.0])).is_nan());
        assert_eq!(feature_std(&features(3, 2, |_, _| 0.0)), 0.0);
    }

    #[test]
    fn a_warning_names_the_remedy() {
        let warns = |rank, spread, rows, word: &str| {
            collapse_warning(rank, spread, rows, 384).is_some_and(|v| v.contains(word) && v.contains("optim.lr"))
        };
        assert!(warns(1.01, 0.9, 1024, "have collapsed"));
        assert!(warns(200.0, 0.001, 1024, "have collapsed"));
        assert!(warns(5.0, 0.9, 1024, "may be collapsing"));
        assert!(warns(200.0, 0.05, 1024, "may be collapsing"));
        assert!(warns(f64::NAN, 0.9, 4, "not finite"));
        assert_eq!(collapse_warning(150.0, 0.8, 1024, 384), None);
        assert_eq!(collapse_warning(1.0, 0.0, 2, 384), None);
        assert_eq!(collapse_warning(6.0, 0.8, 10, 384), None);
    }
}
