//! Benchmarks of training steps, matrix products and data loading. The scripts in the repository's
//! `bench/` folder time the same work in PyTorch.

pub mod data;
pub mod products;
pub mod step;

use serde::Serialize;
use std::time::Instant;

/// Rate over several repeats, in units per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Rate at the median time.
    pub median: f64,
    /// Rate at the shortest time.
    pub best: f64,
}

/// Returns the rate of `repeats` runs of `work`, after two runs that warm up caches and buffers.
/// Each run processes `units`.
pub fn rate(units: f64, repeats: usize, mut work: impl FnMut()) -> Rate {
    work();
    work();
    let mut seconds: Vec<f64> = (0..repeats.max(1))
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    Rate { median: units / seconds[seconds.len() / 2], best: units / seconds[0] }
}

/// Returns the peak resident set of the process in MiB, or `None` if the system does not report it.
pub fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: f64 = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_median() {
        let mut naps = [0, 0, 9, 1, 30, 2, 60].iter();
        let found = rate(3.0, 5, || std::thread::sleep(std::time::Duration::from_millis(*naps.next().unwrap_or(&0))));
        assert!((3.0 / 0.03..3.0 / 0.009).contains(&found.median) && found.best > 3.0 / 0.009 && found.best <= 3.0 / 0.001, "{found:?}");
    }
}
