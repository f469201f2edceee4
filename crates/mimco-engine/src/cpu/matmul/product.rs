//! The drivers of a product: blocks of rows for the threads, passes over the inner dimension, and
//! the choice of the kernel.

use super::kernel::Kernel;
use super::layout::{PANEL, SIDE};
use super::operand::Operand;
use super::panels::Panels;
use super::strips::{Left, strips};
use super::tile::Tile;
use crate::cpu::buffer::Buffer;
use crate::cpu::threads::parallel;
use crate::element::{Precision, Values};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

/// Words of the inner dimension in a pass of [`product_in_parts`]: few enough for a panel of them
/// to stay in the second-level cache.
const PASS: usize = 512;
/// Number of parts that a large enough product is split into at least, for as many threads.
const LEAST_PARTS: usize = 8;

/// Kernel of products in bf16: the fastest one that this machine runs correctly. The first call
/// compares each with the portable loops.
pub(super) fn best_kernel() -> Kernel {
    static BEST: OnceLock<Kernel> = OnceLock::new();
    *BEST.get_or_init(|| {
        let plain = sample(Kernel::Portable);
        let correct = |kernel: &Kernel| sample(*kernel).iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-3);
        Kernel::all().into_iter().find(correct).unwrap_or(Kernel::Portable)
    })
}

/// Multiplies 48 rows, 288 inner elements (more than one turn of AMX) and 40 columns.
fn sample(kernel: Kernel) -> Vec<f32> {
    let (m, k, n) = (48, 288, 40);
    let a: Vec<f32> = (0..m * k).map(|i| (i * 37 % 101) as f32 / 101.0).collect();
    let b: Vec<f32> = (0..k * n).map(|i| (i * 53 % 97) as f32 / 97.0 - 0.5).collect();
    let panels = Panels::new_serial(Operand::new(Values::F32(&b), k, n), Precision::Bf16);
    let product = RefCell::new(Vec::with_capacity(m * n));
    rows_of_product(kernel, Operand::new(Values::F32(&a), m, k).into(), &panels, 0..m, 0..2, k, &|mut tile: Tile<'_>| {
        tile.rows().for_each(|row| product.borrow_mut().extend_from_slice(row));
    });
    product.into_inner()
}

impl Precision {
    /// Returns the precision that this machine multiplies fastest.
    pub fn best() -> Precision {
        if best_kernel() == Kernel::Portable { Precision::F32 } else { Precision::Bf16 }
    }

    /// Name of the kernel that multiplies on this machine: `amx` or `avx512_bf16` if it has the
    /// instructions, else `portable`.
    pub fn kernel(self) -> &'static str {
        if self == Precision::Bf16 { best_kernel().name() } else { Kernel::Portable.name() }
    }
}

/// Computes a·b in parallel over blocks of rows, and of columns if there are few rows. Calls
/// `store` once for each tile of the product.
pub(crate) fn product<'a>(a: impl Into<Left<'a>>, b: &Panels, store: impl Fn(Tile<'_>) + Sync) {
    in_passes(a.into(), b, b.inner(), store);
}

/// Computes a·b in parts that add up to it, for long inner dimensions. Calls `add` several times
/// for each tile of the product.
pub(crate) fn product_in_parts<'a>(a: impl Into<Left<'a>>, b: &Panels, add: impl Fn(Tile<'_>) + Sync) {
    in_passes(a.into(), b, PASS * b.precision().per_word(), add);
}

/// Runs `work` on blocks of rows in parallel. Blocks begin at multiples of 32, and a block's rows
/// of `width` elements stay in the second-level cache.
pub(crate) fn in_blocks(rows: usize, width: usize, precision: Precision, work: impl Fn(Range<usize>) + Sync) {
    let blocks = Blocks::of(rows, width.div_ceil(2 * precision.per_word()));
    parallel(blocks.count, |block| work(blocks.range(block)));
}

fn in_passes(a: Left<'_>, b: &Panels, pass: usize, store: impl Fn(Tile<'_>) + Sync) {
    let kernel = best_kernel();
    let blocks = Blocks::of(a.rows(), pass.min(b.inner()) / b.precision().per_word());
    // A product of few rows is also split by columns, so that every thread gets a part.
    let panels = b.columns().div_ceil(PANEL);
    let cuts = LEAST_PARTS.div_ceil(blocks.count.max(1)).min(panels);
    parallel(blocks.count * cuts, |part| {
        let (block, cut) = (part / cuts, part % cuts);
        rows_of_product(kernel, a, b, blocks.range(block), panels * cut / cuts..panels * (cut + 1) / cuts, pass, &store);
    });
}

/// Computes a·b in one thread. Calls `store` once for each tile.
pub(crate) fn product_serial<'a>(a: impl Into<Left<'a>>, b: &Panels, store: impl Fn(Tile<'_>)) {
    let a = a.into();
    rows_of_product(best_kernel(), a, b, 0..a.rows(), 0..b.columns().div_ceil(PANEL), b.inner(), &store);
}

/// Computes a·b in one thread as sheets: sheet p holds the columns from 32·p on, rows of 32
/// elements.
///
/// `sheets` has a sheet for each panel of b, each of a's rows rounded up to a multiple of 16.
/// Elements beyond the product's rows and columns are unspecified.
pub(crate) fn product_in_sheets(a: Operand<'_>, b: &Panels, sheets: &mut [f32]) {
    let (kernel, rows) = (best_kernel(), a.rows);
    assert_eq!(a.columns, b.inner(), "inner sizes differ");
    let mut packed = Buffer::uninit(0);
    let strips = strips(kernel.needs_row_major(b.precision()), b.precision(), a.into(), 0..rows, 0..b.inner(), &mut packed);
    let sheet = rows.next_multiple_of(SIDE) * PANEL;
    assert_eq!(sheets.len(), b.columns().div_ceil(PANEL) * sheet, "one sheet for each panel");
    for (panel, sheet) in sheets.chunks_exact_mut(sheet.max(1)).enumerate() {
        kernel.tiles(b.precision(), &strips, b.part(panel, 0, b.inner()), rows, sheet);
    }
}

/// Computes some rows and panels of a·b by `kernel`, in passes of `pass` elements of the inner
/// dimension.
pub(super) fn rows_of_product(
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
    let mut packed = Buffer::uninit(0);
    let mut product = Buffer::uninit(rows.len().next_multiple_of(SIDE) * PANEL);
    // An empty sum is 0 and is handed over, too.
    for first in (0..b.inner().max(1)).step_by(pass.max(1)) {
        let inner = pass.min(b.inner() - first);
        let strips = strips(kernel.needs_row_major(precision), precision, a, rows.clone(), first..first + inner, &mut packed);
        for panel in panels.clone() {
            kernel.tiles(precision, &strips, b.part(panel, first, inner), rows.len(), &mut product);
            let columns = PANEL.min(b.columns() - panel * PANEL);
            store(Tile { row: rows.start, column: panel * PANEL, columns, values: &mut product[..rows.len() * PANEL] });
        }
    }
}

/// Blocks of rows, from the shape only.
///
/// Their number is even (unless a block has at most 32 rows), they are as equal as units of 32 rows
/// allow, and a packed block remains in the second-level cache.
pub(super) struct Blocks {
    rows: usize,
    units: usize,
    pub(super) count: usize,
}

impl Blocks {
    const UNIT: usize = 2 * SIDE;

    /// Splits `rows` rows of `words` words of the inner dimension.
    pub(super) fn of(rows: usize, words: usize) -> Blocks {
        // Units of a block: at most 128 rows, and 256 KiB up to 2,048 words.
        let most = (64 * 1024 / words.max(1) / Self::UNIT).clamp(1, 4);
        let units = rows.div_ceil(Self::UNIT);
        Blocks { rows, units, count: (2 * units.div_ceil(2 * most)).min(units) }
    }

    /// Rows of a block.
    pub(super) fn range(&self, block: usize) -> Range<usize> {
        let bound = |block: usize| (self.units * block / self.count * Self::UNIT).min(self.rows);
        bound(block)..bound(block + 1)
    }
}
