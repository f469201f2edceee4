//! The residual sum y = x + s · branch, s one number an image: 1, or drop path's 0 or 1 / (1 - rate).

use crate::cpu::threads::for_each_chunk;
use crate::cpu::vector::{add_scaled, wide};
use crate::{Tape, Tensor, Var};
use std::sync::Arc;

use super::check_offsets;

/// Drop path's scales: image i owns the rows `offsets[i]..offsets[i + 1]`.
#[derive(Clone)]
pub struct DropPath {
    /// `[images]`, 0 or 1 / (1 - rate).
    pub scales: Arc<[f32]>,
    /// [images + 1].
    pub offsets: Arc<[usize]>,
}

impl DropPath {
    fn scale_of_row(&self, row: usize) -> f32 {
        let image = self.offsets.partition_point(|&first| first <= row) - 1;
        self.scales[image]
    }
}

impl Tape<'_> {
    /// x and branch [rows, width] -> [rows, width].
    pub fn residual(&mut self, x: &Var, branch: &Var, drop_path: Option<DropPath>) -> Var {
        const ROWS: usize = 32;
        let width = x.value.width();
        let mut y = Tensor::stale(x.value.dims());
        let (a, b) = (x.value.data(), branch.value.data());
        assert_eq!(a.len(), b.len(), "a branch of another size");
        if let Some(drop) = &drop_path {
            check_offsets(&drop.offsets, x.value.rows());
        }
        for_each_chunk(y.data_mut(), ROWS * width, |i, y| {
            let start = i * ROWS * width;
            let (a, b) = (&a[start..][..y.len()], &b[start..][..y.len()]);
            match &drop_path {
                None => wide(
                    #[inline(always)]
                    || y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = a + b),
                ),
                Some(drop) => {
                    y.copy_from_slice(a);
                    for (r, (y, b)) in y.chunks_exact_mut(width).zip(b.chunks_exact(width)).enumerate() {
                        add_scaled(y, drop.scale_of_row(i * ROWS + r), b);
                    }
                }
            }
        });
        if !self.wants_gradient(&[x, branch], &[]) {
            return Var::constant(y);
        }
        let (x, branch) = (x.node(), branch.node());
        self.record(y, move |dy, pass| {
            let mut scaled = dy.clone();
            if let Some(drop) = &drop_path {
                for_each_chunk(scaled.data_mut(), width, |row, d| {
                    let scale = drop.scale_of_row(row);
                    d.iter_mut().for_each(|d| *d *= scale);
                });
            }
            pass.add(branch, scaled);
            pass.add(x, dy);
        })
    }
}
