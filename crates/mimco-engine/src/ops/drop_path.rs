//! Drop path: some images leave a residual branch out, that of the others grows by as much, so that the mean stays. The branch is worked out for
//! the rows that keep it, and for no others.

use crate::Tensor;
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

/// A branch's rows among those of the residual stream.
#[derive(Clone, Copy)]
pub(super) struct Branch<'a> {
    drop_path: Option<&'a DropPath>,
    stream: usize,
}

impl<'a> Branch<'a> {
    /// `stream` rows, of which drop path leaves some out.
    pub fn of(drop_path: Option<&'a DropPath>, stream: usize) -> Branch<'a> {
        if let Some(drop) = drop_path {
            let rising = drop.rows.is_sorted_by(|a, b| a < b) && drop.rows.last().is_none_or(|&last| last < stream);
            assert!(rising, "the rows that keep a branch rise, and are rows of the stream");
        }
        Branch { drop_path, stream }
    }

    /// Number of the branch's rows.
    pub fn len(&self) -> usize {
        self.drop_path.map_or(self.stream, |drop| drop.rows.len())
    }

    /// The stream's row that is the branch's row `row`.
    #[inline(always)]
    pub fn row(&self, row: usize) -> usize {
        self.drop_path.map_or(row, |drop| drop.rows[row])
    }

    /// What the branch is multiplied by.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        self.drop_path.map_or(1.0, |drop| drop.scale)
    }

    /// The rows that are left out become what they are in `from`, or 0.
    pub fn leave_out(&self, from: Option<&Tensor>, to: &mut Tensor) {
        let Some(drop) = self.drop_path else { return };
        let width = to.width();
        let mut kept = drop.rows.iter().copied().peekable();
        for (row, to) in to.data_mut().chunks_exact_mut(width.max(1)).enumerate() {
            match (kept.next_if_eq(&row), from) {
                (Some(_), _) => {}
                (None, Some(from)) => to.copy_from_slice(&from.data()[row * width..][..width]),
                (None, None) => to.fill(0.0),
            }
        }
    }
}
