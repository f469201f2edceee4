//! Drop path (stochastic depth): some images skip a residual branch, and the branch of the others
//! is scaled up, so that the mean remains. The branch is computed only for the rows that keep it.

use std::sync::Arc;

/// The images that keep a branch.
#[derive(Clone)]
pub struct DropPath {
    /// Factor s of the branch, 1 / (1 - rate).
    pub scale: f32,
    /// Rows of the images that keep the branch, in increasing order.
    pub rows: Arc<[usize]>,
    /// Start of each such image among these rows, [images that keep it + 1].
    pub offsets: Arc<[usize]>,
}

impl DropPath {
    /// Keeps the branch for the images of which `keeps(i)` is true; image i owns the rows
    /// `offsets[i]..offsets[i + 1]`.
    pub fn new(scale: f32, offsets: &[usize], mut keeps: impl FnMut(usize) -> bool) -> DropPath {
        let (mut rows, mut begins) = (Vec::new(), vec![0]);
        for (image, ends) in offsets.windows(2).enumerate() {
            if keeps(image) {
                rows.extend(ends[0]..ends[1]);
                begins.push(rows.len());
            }
        }
        DropPath { scale, rows: rows.into(), offsets: begins.into() }
    }

    /// Restricts the branch to some rows of the stream, given in increasing order.
    ///
    /// Returns the drop path of a stream of only those rows, and the positions of its kept rows
    /// among the rows of this branch.
    pub fn among(&self, rows: &[usize]) -> (DropPath, Arc<[usize]>) {
        let kept = rows.iter().enumerate().filter_map(|(row, old)| Some((row, self.rows.binary_search(old).ok()?)));
        let (rows, positions): (Vec<usize>, Vec<usize>) = kept.unzip();
        let offsets = self.offsets.iter().map(|&first| positions.partition_point(|&position| position < first)).collect();
        (DropPath { scale: self.scale, rows: rows.into(), offsets }, positions.into())
    }
}
