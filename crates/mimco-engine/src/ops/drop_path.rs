//! Drop path: of some images a residual branch is left out, that of the others grows by as much, so that the mean stays.

use std::sync::Arc;

/// The branch's factor for each image: image i owns the rows `offsets[i]..offsets[i + 1]`.
#[derive(Clone)]
pub struct DropPath {
    /// `[images]`, 0 or 1 / (1 - rate).
    pub scales: Arc<[f32]>,
    /// [images + 1].
    pub offsets: Arc<[usize]>,
}

impl DropPath {
    pub(super) fn scale_of_row(&self, row: usize) -> f32 {
        let image = self.offsets.partition_point(|&first| first <= row) - 1;
        self.scales[image]
    }
}
