//! Matrices laid out in words for the kernels.

use super::kernel::Kernel;
use super::{Number, PANEL, Precision, SIDE};
use crate::cpu::buffer::Buffer;
use crate::cpu::threads::{Parts, parallel};
use crate::cpu::vector::wide;
use std::ops::Range;

/// Words of a tile.
pub(super) const TILE: usize = SIDE * SIDE;

/// Elements of a matrix in either precision.
#[derive(Clone, Copy)]
pub enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// The upper halves of f32.
    Bf16(&'a [u16]),
}

impl<'a> Values<'a> {
    /// Those from `start` on.
    pub fn from(self, start: usize) -> Self {
        match self {
            Values::F32(values) => Values::F32(&values[start..]),
            Values::Bf16(values) => Values::Bf16(&values[start..]),
        }
    }

    /// The words from element `start` on, where they are words of this precision and lie at multiples of four bytes.
    fn words(self, precision: Precision, start: usize) -> Option<&'a [u32]> {
        match (self.from(start), precision) {
            (Values::F32(values), Precision::F32) => bytemuck::try_cast_slice(values).ok(),
            (Values::Bf16(values), Precision::Bf16) => bytemuck::try_cast_slice(&values[..values.len() & !1]).ok(),
            _ => None,
        }
    }
}

/// A matrix inside a slice: rows begin `stride` apart; `transposed` where the product takes its columns for rows.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    values: Values<'a>,
    rows: usize,
    columns: usize,
    stride: usize,
    /// Zeros behind each row.
    zeros: usize,
    transposed: bool,
}

impl<'a> Operand<'a> {
    /// Row-major and dense.
    pub fn new(values: Values<'a>, rows: usize, columns: usize) -> Self {
        Operand::strided(values, rows, columns, columns)
    }

    /// Rows of `columns` elements that begin `stride` apart.
    pub fn strided(values: Values<'a>, rows: usize, columns: usize, stride: usize) -> Self {
        let len = match values {
            Values::F32(v) => v.len(),
            Values::Bf16(v) => v.len(),
        };
        let end = rows.saturating_sub(1).saturating_mul(stride).saturating_add(columns);
        assert!(rows == 0 || columns == 0 || len >= end, "a matrix outside its slice");
        // Where no second row is reached, any stride fits the slice; one too large to count with would not fit the sums below.
        let stride = if rows <= 1 || columns == 0 { columns } else { stride };
        Operand { values, rows, columns, stride, zeros: 0, transposed: false }
    }

    /// Rows of `columns` elements with zeros up to `stride` behind each, which spare a product a copy.
    pub fn with_zeros(values: Values<'a>, rows: usize, columns: usize, stride: usize) -> Self {
        Operand { zeros: stride - columns, ..Operand::strided(values, rows, columns, stride) }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Operand { transposed: !self.transposed, ..self }
    }

    /// Rows, as the product sees them.
    pub fn rows(&self) -> usize {
        if self.transposed { self.columns } else { self.rows }
    }

    /// Columns, as the product sees them.
    pub fn columns(&self) -> usize {
        if self.transposed { self.rows } else { self.columns }
    }
}

/// A source of words: `PER` elements of type `T` in each.
struct Packer<'a, T, const PER: usize> {
    values: &'a [T],
    stride: usize,
}

/// Calls `$work` with the packer of an operand's elements and a precision.
macro_rules! with_packer {
    ($operand:expr, $precision:expr, |$packer:ident| $work:expr) => {
        match ($operand.values, $precision) {
            (Values::F32(values), Precision::F32) => {
                let $packer = Packer::<f32, 1> { values, stride: $operand.stride };
                $work
            }
            (Values::F32(values), Precision::Bf16) => {
                let $packer = Packer::<f32, 2> { values, stride: $operand.stride };
                $work
            }
            (Values::Bf16(values), Precision::F32) => {
                let $packer = Packer::<u16, 1> { values, stride: $operand.stride };
                $work
            }
            (Values::Bf16(values), Precision::Bf16) => {
                let $packer = Packer::<u16, 2> { values, stride: $operand.stride };
                $work
            }
        }
    };
}

/// The right factor: panels of 32 columns, in each a row of 32 words for every word of the inner dimension; zeros up to whole tiles.
#[derive(Clone)]
pub struct Panels {
    words: Buffer,
    precision: Precision,
    inner: usize,
    columns: usize,
}

impl Panels {
    /// Packs b in parallel.
    pub fn new(b: Operand<'_>, precision: Precision) -> Panels {
        let mut panels = Panels::stale(b, precision);
        let (count, len) = (panels.columns.div_ceil(PANEL), panels.panel_words(panels.inner));
        let words = Parts::new(panels.words.words_mut());
        // SAFETY: a panel each.
        parallel(count, |panel| pack_panel(b, precision, panel, unsafe { words.part(panel * len, len) }));
        panels
    }

    /// Packs b in this thread.
    pub fn new_serial(b: Operand<'_>, precision: Precision) -> Panels {
        let mut panels = Panels::stale(b, precision);
        let len = panels.panel_words(panels.inner).max(1);
        panels.words.words_mut().chunks_exact_mut(len).enumerate().for_each(|(panel, words)| pack_panel(b, precision, panel, words));
        panels
    }

    fn stale(b: Operand<'_>, precision: Precision) -> Panels {
        let (inner, columns) = (b.rows(), b.columns());
        let mut panels = Panels { words: Buffer::stale(0), precision, inner, columns };
        panels.words = Buffer::stale(columns.div_ceil(PANEL) * panels.panel_words(inner));
        panels
    }

    fn panel_words(&self, inner: usize) -> usize {
        inner.div_ceil(SIDE * self.precision.per_word()) * SIDE * PANEL
    }

    /// What the product is worked out in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Rows of b.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Columns of b.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The words of `inner` rows from `first`, a multiple of a tile's, in one panel.
    pub(super) fn part(&self, panel: usize, first: usize, inner: usize) -> &[u32] {
        let start = panel * self.panel_words(self.inner) + self.panel_words(first);
        &self.words.words()[start..][..self.panel_words(inner)]
    }
}

fn pack_panel(b: Operand<'_>, precision: Precision, panel: usize, words: &mut [u32]) {
    let first = panel * PANEL;
    let columns = first..(first + PANEL).min(b.columns());
    with_packer!(b, precision, |packer| if b.transposed {
        packer.along_rows::<PANEL>(columns, 0..b.rows(), words);
    } else {
        packer.across_rows::<PANEL>(0..b.rows(), columns, words);
    });
}

/// Rows of the left factor, sixteen a strip: word (row, inner) of strip i lies at
/// i · `strip` + row · `row` + (inner / 16) · `tile` + (inner % 16) · `inner`.
pub(super) struct Strips<'a> {
    words: &'a [u32],
    pub strip: usize,
    pub row: usize,
    pub tile: usize,
    pub inner: usize,
}

impl Strips<'_> {
    /// The words of strip i on, of which a kernel may read up to row `rows` - 1 and inner word `inner` - 1.
    pub fn from(&self, i: usize, rows: usize, inner: usize) -> &[u32] {
        let words = &self.words[i * self.strip..];
        let last = (rows - 1) * self.row + (inner / SIDE - 1) * self.tile + (SIDE - 1) * self.inner;
        assert!(inner.is_multiple_of(SIDE) && last < words.len(), "a strip outside its words");
        words
    }
}

/// Rows and inner places of a in strips: as they lie where they are whole words already (then what follows the last row takes the place of the
/// missing ones, whose sums nobody reads), else packed into tiles, those along the inner dimension first, with zeros beyond.
pub(super) fn strips<'a>(
    kernel: Kernel,
    precision: Precision,
    a: Operand<'a>,
    rows: Range<usize>,
    inner: Range<usize>,
    packed: &'a mut Buffer,
) -> Strips<'a> {
    let per = precision.per_word();
    let padded = inner.len().next_multiple_of(SIDE * per);
    let zeros = if inner.end == a.columns() { a.zeros } else { 0 };
    let whole = !a.transposed && !rows.is_empty() && !inner.is_empty() && padded <= inner.len() + zeros && a.stride.is_multiple_of(per);
    if whole && let Some(words) = a.values.words(precision, rows.start * a.stride + inner.start) {
        let row = a.stride / per;
        if (rows.len().next_multiple_of(SIDE) - 1) * row + padded / per <= words.len() {
            return Strips { words, strip: SIDE * row, row, tile: SIDE, inner: 1 };
        }
    }
    let strip = inner.len().div_ceil(SIDE * per) * TILE;
    let len = rows.len().div_ceil(SIDE) * strip;
    if packed.len() < len {
        *packed = Buffer::stale(len);
    }
    let turn = a.transposed && kernel.wants_rows(precision);
    for (i, words) in packed.words_mut()[..len].chunks_exact_mut(strip.max(1)).enumerate() {
        let first = rows.start + i * SIDE;
        let rows = first..(first + SIDE).min(rows.end);
        with_packer!(a, precision, |packer| if a.transposed {
            packer.across_rows::<SIDE>(inner.clone(), rows, words);
        } else {
            packer.tiles(rows, inner.clone(), words);
        });
        if turn {
            words.as_chunks_mut::<TILE>().0.iter_mut().for_each(transpose);
        }
    }
    let (row, inner) = if a.transposed && !turn { (1, SIDE) } else { (SIDE, 1) };
    Strips { words: &packed.words()[..len], strip, row, tile: TILE, inner }
}

fn transpose(tile: &mut [u32; TILE]) {
    for row in 1..SIDE {
        for column in 0..row {
            tile.swap(row * SIDE + column, column * SIDE + row);
        }
    }
}

impl<T: Number, const PER: usize> Packer<'_, T, PER> {
    /// A word of `PER` elements.
    #[inline(always)]
    fn word(first: T, last: T) -> u32 {
        if PER == 1 { first.single().to_bits() } else { first.half() as u32 | (last.half() as u32) << 16 }
    }

    /// A word of a first element alone.
    #[inline(always)]
    fn half_word(first: T) -> u32 {
        if PER == 1 { first.single().to_bits() } else { first.half() as u32 }
    }

    #[inline(always)]
    fn row(&self, row: usize, columns: &Range<usize>) -> &[T] {
        &self.values[row * self.stride + columns.start..][..columns.len()]
    }

    /// words[i][c] = the word of rows PER·i and after in column c, `WIDTH` words a row, zeros beyond rows and columns.
    fn across_rows<const WIDTH: usize>(&self, rows: Range<usize>, columns: Range<usize>, words: &mut [u32]) {
        wide(
            #[inline(always)]
            || {
                for (i, out) in words.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
                    let first = rows.start + PER * i;
                    if first >= rows.end {
                        out.fill(0);
                        continue;
                    }
                    let top = self.row(first, &columns);
                    let bottom = (first + PER <= rows.end).then(|| self.row(first + PER - 1, &columns));
                    if let (Some(bottom), true) = (bottom, columns.len() == WIDTH) {
                        let (top, bottom) = (&top[..WIDTH], &bottom[..WIDTH]);
                        for (c, out) in out.iter_mut().enumerate() {
                            *out = Self::word(top[c], bottom[c]);
                        }
                        continue;
                    }
                    out[columns.len()..].fill(0);
                    match bottom {
                        Some(bottom) => {
                            out.iter_mut().zip(top).zip(bottom).for_each(|((out, &top), &bottom)| *out = Self::word(top, bottom))
                        }
                        None => out.iter_mut().zip(top).for_each(|(out, &top)| *out = Self::half_word(top)),
                    }
                }
            },
        );
    }

    /// words[i][r] = the word of columns PER·i and after in row r, `WIDTH` words a row, zeros beyond rows and columns.
    fn along_rows<const WIDTH: usize>(&self, rows: Range<usize>, columns: Range<usize>, words: &mut [u32]) {
        if rows.len() < WIDTH || !columns.len().is_multiple_of(SIDE * PER) {
            words.fill(0);
        }
        wide(
            #[inline(always)]
            || {
                for (r, row) in rows.enumerate() {
                    let (whole, rest) = self.row(row, &columns).as_chunks::<PER>();
                    for (i, v) in whole.iter().enumerate() {
                        words[i * WIDTH + r] = Self::word(v[0], v[PER - 1]);
                    }
                    if let Some(&last) = rest.first() {
                        words[whole.len() * WIDTH + r] = Self::half_word(last);
                    }
                }
            },
        );
    }

    /// Tiles of 16 rows of 16 words each.
    fn tiles(&self, rows: Range<usize>, columns: Range<usize>, words: &mut [u32]) {
        if rows.len() < SIDE || !columns.len().is_multiple_of(SIDE * PER) {
            words.fill(0);
        }
        wide(
            #[inline(always)]
            || {
                for (r, row) in rows.enumerate() {
                    let (whole, rest) = self.row(row, &columns).as_chunks::<PER>();
                    let (tiles, short) = whole.as_chunks::<SIDE>();
                    for (tile, row) in tiles.iter().enumerate() {
                        let out = &mut words[tile * TILE + r * SIDE..][..SIDE];
                        for (out, v) in out.iter_mut().zip(row) {
                            *out = Self::word(v[0], v[PER - 1]);
                        }
                    }
                    let last = tiles.len() * TILE + r * SIDE;
                    for (i, v) in short.iter().enumerate() {
                        words[last + i] = Self::word(v[0], v[PER - 1]);
                    }
                    if let Some(&single) = rest.first() {
                        words[last + short.len()] = Self::half_word(single);
                    }
                }
            },
        );
    }
}
