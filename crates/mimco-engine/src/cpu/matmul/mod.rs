//! Matrix products with f32 sums, of f32 or bf16 factors, that hand every part of the result over while it is in cache.
//!
//! c = a·b: b is packed once into panels of 32 columns ([`Panels`]); a ([`Left`]) is read as it lies, or packed by blocks of rows into tiles of
//! 16 rows while it is in cache, and rounded on the way where the product is in bf16. Every 32 columns of such a block are worked out in one
//! [`Tile`] of f32 that never leaves the first-level cache before the caller has added bias, activation or residual and stored it.
//!
//! One packing serves every kernel. It is made of 32-bit words, along the inner dimension: one f32, or two neighbours in bf16, which is
//! what AMX and AVX512-BF16 multiply and what the portable loop takes apart by a shift and a mask.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod emulate_amx;
mod kernel;
mod operand;
mod panels;
mod strips;
#[cfg(test)]
mod tests;
mod words;

pub use operand::{Operand, Values};
pub use panels::{PanelRows, Panels};
pub use strips::Left;

use super::buffer::Buffer;
use super::threads::parallel;
use super::vector::wide;
use kernel::Kernel;
use std::ops::Range;
use strips::strips;

/// Columns of a panel.
pub const PANEL: usize = 32;
/// Rows of a tile, and its words a row.
const SIDE: usize = 16;
/// Words of the inner dimension that one pass goes over where the product is added to what is there: few enough for a panel of them to stay in
/// the second-level cache.
const PASS: usize = 512;
/// Parts that a product is cut into where it is large enough, for that many threads at least.
const LEAST_PARTS: usize = 8;

/// What numbers are multiplied in, and activations kept in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Eight bits of mantissa, sums in single precision.
    Bf16,
}

impl Precision {
    /// The one that this machine multiplies fastest.
    pub fn best() -> Precision {
        if Kernel::best() == Kernel::Portable { Precision::F32 } else { Precision::Bf16 }
    }

    /// What multiplies on this machine: `amx` or `avx512_bf16` where there is such an instruction, `portable` loops on the widest vectors else.
    pub fn kernel(self) -> &'static str {
        if self == Precision::Bf16 { Kernel::best().name() } else { Kernel::Portable.name() }
    }

    /// Numbers in a word.
    fn per_word(self) -> usize {
        words::per_word(self == Precision::Bf16)
    }
}

/// A part of the product: rows of `columns` numbers that begin [`PANEL`] apart.
pub struct Tile<'a> {
    /// First row in the product.
    pub row: usize,
    /// First column in the product.
    pub column: usize,
    /// Columns that belong to the product, at most [`PANEL`].
    pub columns: usize,
    values: &'a mut [f32],
}

impl Tile<'_> {
    /// The rows, each of `columns` numbers.
    #[inline(always)]
    pub fn rows(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let columns = self.columns;
        self.values.chunks_exact_mut(PANEL).map(move |row| &mut row[..columns])
    }

    /// `finish(row, column, values)` for the rows, by the widest vectors. A whole panel's width is known when this is compiled, so that a row stays in
    /// registers.
    #[inline(always)]
    pub fn each_row(&mut self, finish: impl Fn(usize, usize, &mut [f32])) {
        let (first, column) = (self.row, self.column);
        wide(
            #[inline(always)]
            || {
                if self.columns == PANEL {
                    for (i, row) in self.values.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
                        finish(first + i, column, row);
                    }
                } else {
                    for (i, row) in self.rows().enumerate() {
                        finish(first + i, column, row);
                    }
                }
            },
        );
    }

    /// The rows two by two; the last may come with an empty one.
    #[inline(always)]
    pub fn pairs(&mut self) -> impl Iterator<Item = [&mut [f32]; 2]> {
        let columns = self.columns;
        self.values.chunks_mut(2 * PANEL).map(move |pair| {
            let (upper, lower) = pair.split_at_mut(PANEL);
            let end = columns.min(lower.len());
            [&mut upper[..columns], &mut lower[..end]]
        })
    }
}

/// a·b in parallel over blocks of rows, and of columns where those are few; `store` sees each tile of the product once.
pub fn product<'a>(a: impl Into<Left<'a>>, b: &Panels, store: impl Fn(Tile<'_>) + Sync) {
    in_passes(a.into(), b, b.inner(), store);
}

/// a·b in parts that add up to it, for long inner dimensions: `add` sees the same tile of the product several times.
pub fn product_in_parts<'a>(a: impl Into<Left<'a>>, b: &Panels, add: impl Fn(Tile<'_>) + Sync) {
    in_passes(a.into(), b, PASS * b.precision().per_word(), add);
}

/// Runs `work` on blocks of rows in parallel: they begin at multiples of 32, and as many rows of `width` numbers stay in the second-level cache.
pub fn in_blocks(rows: usize, width: usize, precision: Precision, work: impl Fn(Range<usize>) + Sync) {
    let blocks = Blocks::of(rows, width.div_ceil(2 * precision.per_word()));
    parallel(blocks.count, |block| work(blocks.range(block)));
}

fn in_passes(a: Left<'_>, b: &Panels, pass: usize, store: impl Fn(Tile<'_>) + Sync) {
    let kernel = Kernel::best();
    let blocks = Blocks::of(a.rows(), pass.min(b.inner()) / b.precision().per_word());
    // Few rows are cut by columns, too, so that every thread has some.
    let panels = b.columns().div_ceil(PANEL);
    let cuts = LEAST_PARTS.div_ceil(blocks.count.max(1)).min(panels);
    parallel(blocks.count * cuts, |part| {
        let (block, cut) = (part / cuts, part % cuts);
        rows_of_product(kernel, a, b, blocks.range(block), panels * cut / cuts..panels * (cut + 1) / cuts, pass, &store);
    });
}

/// a·b in one thread.
pub fn product_serial<'a>(a: impl Into<Left<'a>>, b: &Panels, store: impl Fn(Tile<'_>)) {
    let a = a.into();
    rows_of_product(Kernel::best(), a, b, 0..a.rows(), 0..b.columns().div_ceil(PANEL), b.inner(), &store);
}

/// a·b in one thread and as the kernels leave it: the rows' parts in columns 32·p and after, of 32 numbers each, are `sheets[p]`; what lies
/// beyond the product's rows and columns is of no meaning. `sheets`: a sheet for each panel of b, each of a's rows up to a multiple of 16.
pub fn product_in_sheets(a: Operand<'_>, b: &Panels, sheets: &mut [f32]) {
    let (kernel, rows) = (Kernel::best(), a.rows);
    assert_eq!(a.columns, b.inner(), "inner sizes differ");
    let mut packed = Buffer::stale(0);
    let strips = strips(kernel, b.precision(), a.into(), 0..rows, 0..b.inner(), &mut packed);
    let sheet = rows.next_multiple_of(SIDE) * PANEL;
    assert_eq!(sheets.len(), b.columns().div_ceil(PANEL) * sheet, "a sheet a panel");
    for (panel, sheet) in sheets.chunks_exact_mut(sheet.max(1)).enumerate() {
        kernel.tiles(b.precision(), &strips, b.part(panel, 0, b.inner()), rows, sheet);
    }
}

fn rows_of_product(
    kernel: Kernel,
    a: Left<'_>,
    b: &Panels,
    rows: Range<usize>,
    panels: Range<usize>,
    pass: usize,
    store: &impl Fn(Tile<'_>),
) {
    assert_eq!(a.inner(), b.inner(), "inner sizes differ");
    let precision = b.precision();
    let mut packed = Buffer::stale(0);
    let mut product = Buffer::stale(rows.len().next_multiple_of(SIDE) * PANEL);
    // An empty sum is 0, and is handed over, too.
    for first in (0..b.inner().max(1)).step_by(pass.max(1)) {
        let inner = pass.min(b.inner() - first);
        let strips = strips(kernel, precision, a, rows.clone(), first..first + inner, &mut packed);
        for panel in panels.clone() {
            kernel.tiles(precision, &strips, b.part(panel, first, inner), rows.len(), &mut product);
            let columns = PANEL.min(b.columns() - panel * PANEL);
            store(Tile { row: rows.start, column: panel * PANEL, columns, values: &mut product[..rows.len() * PANEL] });
        }
    }
}

/// Blocks of rows, by the shape alone: an even number (but where there are no more than 32 rows for each), as equal as tiles of 32 rows allow,
/// small enough that a packed one stays in the second-level cache.
struct Blocks {
    rows: usize,
    units: usize,
    count: usize,
}

impl Blocks {
    const UNIT: usize = 2 * SIDE;

    /// `words`: of the inner dimension.
    fn of(rows: usize, words: usize) -> Blocks {
        let most = (64 * 1024 / words.max(1) / Self::UNIT).clamp(1, 4); // units of 32 rows: at most 128 rows, 256 KiB up to 2,048 words
        let units = rows.div_ceil(Self::UNIT);
        Blocks { rows, units, count: (2 * units.div_ceil(2 * most)).min(units) }
    }

    fn range(&self, block: usize) -> Range<usize> {
        let bound = |block: usize| (self.units * block / self.count * Self::UNIT).min(self.rows);
        bound(block)..bound(block + 1)
    }
}
