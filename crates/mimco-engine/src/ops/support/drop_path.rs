//! Drop path: some images leave a residual branch out, that of the others grows by as much, so that the mean stays. The branch is worked out for
//! the rows that keep it, and for no others.

use std::sync::Arc;

/// Who keeps a branch.
#[derive(Clone)]
pub struct DropPath {
    /// The branch's factor, 1 / (1 - rate).
    pub scale: f32,
    /// The rows of the images that keep it, in rising order.
    pub rows: Arc<[usize]>,
    /// Where each such image begins among them: [images that keep it + 1].
    pub offsets: Arc<[usize]>,
}

impl DropPath {
    /// Image i owns the rows `offsets[i]..offsets[i + 1]`, and keeps the branch if `keeps(i)`.
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

    /// The same for a stream of some rows of this one, in rising order, and their places among this branch's rows, which the new branch is left with.
    pub fn among(&self, rows: &[usize]) -> (DropPath, Arc<[usize]>) {
        let kept = rows.iter().enumerate().filter_map(|(row, old)| Some((row, self.rows.binary_search(old).ok()?)));
        let (rows, places): (Vec<usize>, Vec<usize>) = kept.unzip();
        let offsets = self.offsets.iter().map(|&first| places.partition_point(|&place| place < first)).collect();
        (DropPath { scale: self.scale, rows: rows.into(), offsets }, places.into())
    }
}
