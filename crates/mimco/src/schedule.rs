//! Schedules: learning rate and momentum over the updates of a run.

use std::f64::consts::PI;

/// Falls from 1 to 0 along half a cosine while `done` rises from 0 to `all`.
fn half_cosine(done: f64, all: f64) -> f64 {
    0.5 * (1.0 + (PI * (done / all.max(1.0)).clamp(0.0, 1.0)).cos())
}

/// Returns the learning rate of update `step` (from 0) of `total`: linear to `peak` over `warmup`
/// updates, then half a cosine to `least`.
pub fn learning_rate(step: u64, total: u64, warmup: u64, peak: f64, least: f64) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    least + (peak - least) * half_cosine((step - warmup) as f64, total.saturating_sub(warmup) as f64)
}

/// Returns the momentum of a momentum encoder after `step` updates of `total`: from `first` to 1 along
/// half a cosine (MoCo v3).
pub fn momentum(step: u64, total: u64, first: f64) -> f64 {
    1.0 - (1.0 - first) * half_cosine(step as f64, total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_in_a_line_and_falls_by_a_cosine() {
        let rate = |step| learning_rate(step, 110, 10, 2.0, 0.5);
        assert_eq!((rate(0), rate(4), rate(9), rate(10)), (0.2, 1.0, 2.0, 2.0));
        assert!((rate(60) - 1.25).abs() < 1e-12); // half way: the mean of peak and least
        assert!((rate(35) - (0.5 + 1.5 * 0.5 * (1.0 + 0.5f64.sqrt()))).abs() < 1e-12); // a quarter: cos 45°
        assert!(rate(109) > 0.5 && rate(109) < 0.501);
        assert_eq!(learning_rate(0, 1, 0, 2.0, 0.5), 2.0);
    }

    #[test]
    fn momentum_ends_at_one() {
        assert_eq!(momentum(0, 100, 0.99), 0.99);
        assert!((momentum(50, 100, 0.99) - 0.995).abs() < 1e-12);
        assert_eq!(momentum(100, 100, 0.99), 1.0);
    }
}
