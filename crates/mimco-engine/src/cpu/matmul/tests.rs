//! Every kernel on odd and on random shapes, against sums in f64 of the same rounded elements.

use super::kernel::Kernel;
use super::product::{Blocks, rows_of_product};
use super::*;
use crate::element::{Element, Precision, Values};
use half::bf16;
use proptest::prelude::*;
use proptest::test_runner::Config;

/// Numbers of -1..1 that depend only on the index.
fn numbers(n: usize, step: usize) -> Vec<f32> {
    (0..n).map(|i| (i * step % 1009) as f32 / 504.5 - 1.0).collect()
}

fn to_bf16(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|v| Element::to_bf16(*v)).collect()
}

/// A matrix inside a slice of NaN, row-major or transposed, in either precision.
struct Factor {
    f32: Vec<f32>,
    bf16: Vec<bf16>,
    rows: usize,
    columns: usize,
    stride: usize,
    transposed: bool,
    in_bf16: bool,
}

/// Elements before the matrix.
const BEFORE: usize = 2;

impl Factor {
    fn new(rows: usize, columns: usize, step: usize, transposed: bool, in_bf16: bool, gap: usize) -> Factor {
        let (height, width) = if transposed { (columns, rows) } else { (rows, columns) };
        let stride = width + gap;
        let values = numbers(height * stride, step);
        let inside = |i: usize| i >= BEFORE && (i - BEFORE) % stride.max(1) < width;
        let f32: Vec<f32> = values
            .into_iter()
            .chain(vec![0.0; 40 * stride.max(1)])
            .enumerate()
            .map(|(i, v)| if inside(i) { v } else { f32::NAN })
            .collect();
        let f32: Vec<f32> =
            f32.iter().enumerate().map(|(i, &v)| if i >= (BEFORE + height * stride).saturating_sub(gap) { f32::NAN } else { v }).collect();
        Factor { bf16: to_bf16(&f32), f32, rows, columns, stride, transposed, in_bf16 }
    }

    fn operand(&self) -> Operand<'_> {
        let values = if self.in_bf16 { Values::Bf16(&self.bf16[BEFORE..]) } else { Values::F32(&self.f32[BEFORE..]) };
        let (height, width) = if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) };
        Operand::strided(values, height, width, self.stride)
    }

    /// Packs the matrix as a right factor, or its transpose as a left factor.
    fn panels(&self, precision: Precision, as_left: bool) -> Panels {
        if self.transposed != as_left {
            Panels::of_transpose_serial(self.operand(), precision)
        } else {
            Panels::new_serial(self.operand(), precision)
        }
    }

    /// An element as the product multiplies it.
    fn at(&self, row: usize, column: usize, precision: Precision) -> f64 {
        let (i, j) = if self.transposed { (column, row) } else { (row, column) };
        let index = BEFORE + i * self.stride + j;
        let rounded = self.in_bf16 || precision == Precision::Bf16;
        if rounded { Element::to_f32(self.bf16[index]) as f64 } else { self.f32[index] as f64 }
    }
}

fn check(kernel: Kernel, precision: Precision, a: &Factor, b: &Factor, pass: usize) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let label = format!("{kernel:?} {precision:?} {m}x{k}x{n}, transposed {} {}, in passes of {pass}", a.transposed, b.transposed);
    let (panels, columns) = (b.panels(precision, false), a.panels(precision, true));
    let left = if a.transposed { Left::Columns(&columns) } else { Left::Rows(a.operand()) };
    let found = std::cell::RefCell::new(vec![0.0f32; m * n]);
    rows_of_product(kernel, left, &panels, 0..m, 0..n.div_ceil(PANEL), pass, &|mut tile: Tile<'_>| {
        let (first, column) = (tile.row, tile.column);
        for (i, row) in tile.rows().enumerate() {
            let found = &mut found.borrow_mut()[(first + i) * n + column..];
            found.iter_mut().zip(row).for_each(|(f, v)| *f += *v);
        }
    });
    for (i, found) in found.into_inner().into_iter().enumerate() {
        let expected: f64 = (0..k).map(|l| a.at(i / n, l, precision) * b.at(l, i % n, precision)).sum();
        assert!((found as f64 - expected).abs() < 2e-6 * (k as f64).max(1.0), "{label} at {i}: {found} for {expected}");
    }
}

fn check_all(kernel: Kernel) {
    for (m, k, n) in [
        (1, 1, 1),
        (3, 5, 7),
        (17, 32, 33),
        (33, 65, 31),
        (48, 64, 64),
        (70, 40, 129),
        (40, 0, 3),
        (16, 33, 32),
        (8, 96, 16),
        (50, 900, 40),
    ] {
        for precision in [Precision::F32, Precision::Bf16] {
            for bits in 0..16 {
                let flag = |bit: usize| bits >> bit & 1 == 1;
                let (a, b) = (Factor::new(m, k, 37, flag(0), flag(1), 6), Factor::new(k, n, 53, flag(2), flag(3), 6));
                [k.max(1), 32].into_iter().for_each(|pass| check(kernel, precision, &a, &b, pass));
            }
        }
    }
}

#[test]
fn every_kernel_of_this_machine_sums_the_rounded_products() {
    Kernel::all().into_iter().for_each(check_all);
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn the_amx_kernel_does_so_under_emulation() {
    // On a CPU with AMX the permission is requested first, so that the kernel runs there; else it
    // is emulated.
    super::amx::granted();
    super::emulate_amx::install();
    check_all(Kernel::Amx);
}

#[test]
fn zeros_after_the_rows_save_a_copy_and_change_nothing() {
    let (m, k, n) = (32, 17, 40);
    let b = Factor::new(k, n, 53, false, false, 6);
    for precision in [Precision::F32, Precision::Bf16] {
        let mut values = vec![0.0; m * 32];
        values.chunks_exact_mut(32).enumerate().for_each(|(i, row)| row[..k].copy_from_slice(&numbers(k, 31 + i)));
        let rounded = to_bf16(&values);
        let values = if precision == Precision::F32 { Values::F32(&values) } else { Values::Bf16(&rounded) };
        let panels = Panels::new(b.operand(), precision);
        let of = |a: Operand<'_>| {
            let product = std::cell::RefCell::new(Vec::new());
            product_serial(a, &panels, |mut tile| tile.rows().for_each(|row| product.borrow_mut().extend_from_slice(row)));
            product.into_inner()
        };
        let strided = of(Operand::strided(values, m, k, 32));
        assert!(of(Operand::with_zeros(values, m, k, 32)) == strided && strided.iter().all(|v| v.is_finite()));
    }
}

#[test]
fn a_single_row_of_any_stride_and_no_row_at_all() {
    let values = [0.5f32; 48];
    let panels = Panels::new(Operand::new(Values::F32(&[1.0; 32]), 32, 1), Precision::F32);
    let sums = std::cell::RefCell::new(Vec::new());
    let keep = |mut tile: Tile<'_>| tile.rows().for_each(|row| sums.borrow_mut().extend_from_slice(row));
    product_serial(Operand::strided(Values::F32(&values), 1, 32, 0x1111_1111_1111_1112), &panels, keep);
    product_serial(Operand::new(Values::F32(&values), 0, 32), &panels, keep);
    assert_eq!(sums.into_inner(), [16.0]);
}

#[test]
fn blocks_cover_the_rows_in_even_number() {
    for (rows, words) in [(1, 5), (32, 5), (33, 5), (100, 64), (1576, 384), (2176, 64), (5000, 4096)] {
        let blocks = Blocks::of(rows, words);
        let ends: Vec<usize> = (0..blocks.count).map(|i| blocks.range(i).end).collect();
        assert!(ends.is_sorted() && ends.last() == Some(&rows) && blocks.range(0).start == 0, "{rows}");
        assert!((1..blocks.count).all(|i| blocks.range(i).start == ends[i - 1]), "{rows}");
        assert!(blocks.count == rows.div_ceil(32) || blocks.count.is_multiple_of(2), "{rows}: {}", blocks.count);
        assert!((0..blocks.count).all(|i| blocks.range(i).len() <= 160), "{rows}");
    }
}

proptest! {
    #![proptest_config(Config { cases: 48, failure_persistence: None, ..Config::default() })]

    #[test]
    fn products_of_any_shape_and_stride_sum_the_rounded_products(
        (m, n, k) in (1usize..80, 1usize..80, 0usize..200),
        gaps in (0usize..40, 0usize..40),
        flags in any::<[bool; 5]>(),
        pass in 1usize..6,
    ) {
        let a = Factor::new(m, k, 37, flags[0], flags[1], gaps.0);
        let b = Factor::new(k, n, 53, flags[2], flags[3], gaps.1);
        let precision = if flags[4] { Precision::Bf16 } else { Precision::F32 };
        // Passes are multiples of a slab's rows.
        Kernel::all().into_iter().for_each(|kernel| check(kernel, precision, &a, &b, 32 * pass));
    }
}
