//! Images per second, and the share of the time spent waiting for them.

use std::time::Instant;

/// Measures a training's speed between two lines of metrics.
pub(super) struct Throughput {
    seconds_before: f64,
    started: Instant,
    since: Instant,
    waited: f64,
    images: usize,
}

impl Throughput {
    /// Starts measuring, after `seconds_before` of earlier runs of the same training.
    pub fn start(seconds_before: f64) -> Throughput {
        Throughput { seconds_before, started: Instant::now(), since: Instant::now(), waited: 0.0, images: 0 }
    }

    /// Counts a batch that the training has waited for since `from`.
    pub fn add_batch(&mut self, from: Instant, images: usize) {
        self.waited += from.elapsed().as_secs_f64();
        self.images += images;
    }

    /// Excludes the time since `from`, which was not training.
    pub fn exclude(&mut self, from: Instant) {
        self.since += from.elapsed();
    }

    /// Returns images per second and the share of waiting since the last call.
    pub fn take(&mut self) -> (f64, f64) {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        let result = (self.images as f64 / seconds, self.waited / seconds);
        (self.since, self.waited, self.images) = (Instant::now(), 0.0, 0);
        result
    }

    /// Returns the seconds of the training, over all resumed runs.
    pub fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }
}
