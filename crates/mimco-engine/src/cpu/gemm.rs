//! Products of strided f32 matrices by crate `gemm`, for InfoNCE and the evaluations (kNN, linear
//! probe), whose factors change with every call and gain nothing from packing. Blocks of rows
//! depend only on the shape.

use super::threads::for_each_chunk;

/// A strided matrix inside a slice; a transpose costs nothing.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Wraps a row-major, dense matrix.
    ///
    /// # Panics
    /// If the slice is shorter than the matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Matrix::strided(data, rows, cols, cols)
    }

    /// Wraps rows of `cols` elements that begin `row_stride` apart.
    ///
    /// # Panics
    /// If the slice is shorter than the matrix.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || data.len() >= extent(rows, cols, row_stride), "a matrix outside its slice");
        Matrix { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Returns the transpose.
    pub fn t(self) -> Self {
        Matrix { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Returns the rows `first..first + rows`.
    ///
    /// # Panics
    /// If the matrix has fewer rows.
    pub fn rows_from(self, first: usize, rows: usize) -> Self {
        assert!(first <= self.rows && rows <= self.rows - first, "rows outside their matrix");
        // A matrix without columns has no elements, so its slice may end earlier.
        Matrix { data: &self.data[(first * self.row_stride).min(self.data.len())..], rows, ..self }
    }
}

/// Index at which the last row ends. Saturated sizes fit no slice.
fn extent(rows: usize, cols: usize, stride: usize) -> usize {
    (rows - 1).saturating_mul(stride).saturating_add(cols)
}

/// Computes c = a·b, or c += a·b with `accumulate`, in one thread; c is dense, [a.rows, b.cols].
///
/// # Panics
/// If the sizes do not match.
pub fn matmul_serial(c: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, accumulate: bool) {
    let n = b.cols;
    matmul_strided(c, n, a, b, accumulate, 1.0);
}

/// Computes c = s a·b, or c += s a·b with `accumulate`, in one thread; rows of c begin `c_stride`
/// apart.
///
/// # Panics
/// If the sizes do not match.
pub fn matmul_strided(c: &mut [f32], c_stride: usize, a: Matrix<'_>, b: Matrix<'_>, accumulate: bool, s: f32) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "inner sizes differ");
    if m == 0 || n == 0 {
        return;
    }
    assert!(c_stride >= n && c.len() >= extent(m, n, c_stride), "the product outside its slice");
    // The kernels prefer a result with contiguous columns: cᵀ = bᵀ·aᵀ has them.
    let factor = |x: Matrix<'_>| (x.data.as_ptr(), x.col_stride as isize, x.row_stride as isize);
    let ((rows, columns), (column_stride, row_stride), left, right) = match c_stride {
        1 => ((m, n), (1, 1), factor(a), factor(b)),
        _ => ((n, m), (c_stride as isize, 1), factor(b.t()), factor(a.t())),
    };
    let [(left, left_columns, left_rows), (right, right_columns, right_rows)] = [left, right];
    // SAFETY: every element of a `Matrix` is inside its slice, those of c by the assertion above,
    // and c is borrowed mutably.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            rows,
            columns,
            k,
            c.as_mut_ptr(),
            column_stride,
            row_stride,
            accumulate,
            left,
            left_columns,
            left_rows,
            right,
            right_columns,
            right_rows,
            1.0,
            s,
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}

/// Number of rows of a block, from the shape only. There is an even number of blocks, at least two;
/// they have 512 rows or more if possible, since each packs the other factor again.
fn block_rows(m: usize) -> usize {
    let pairs = (m / 1024).clamp(1, 32);
    m.div_ceil(2 * pairs).next_multiple_of(16)
}

/// Computes c = a·b, or c += a·b with `accumulate`, in parallel over blocks of rows.
///
/// Calls `epilogue(first row, rows)` for each block of c while it is in cache.
///
/// # Panics
/// If the sizes do not match.
pub fn matmul(c: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, accumulate: bool, epilogue: impl Fn(usize, &mut [f32]) + Sync) {
    let (m, n) = (a.rows, b.cols);
    assert_eq!(c.len(), m * n, "the product has another size");
    let block = block_rows(m);
    for_each_chunk(c, block * n.max(1), |i, c| {
        let rows = c.len() / n;
        matmul_serial(c, a.rows_from(i * block, rows), b, accumulate);
        epilogue(i * block, c);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplies the middle columns of wider matrices into the middle columns of a wider matrix of
    /// NaN.
    #[test]
    fn strided_products_stay_within_their_columns() {
        for (m, n, k) in [(1, 1, 1), (1, 9, 5), (9, 1, 5), (17, 33, 3), (5, 7, 0), (37, 37, 64)] {
            let (a_stride, b_stride, c_stride) = (k + 3, k + 5, n + 4);
            let a: Vec<f32> = (0..m * a_stride).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
            let b: Vec<f32> = (0..n * b_stride).map(|i| (i * 53 % 97) as f32 / 48.0 - 1.0).collect();
            let mut c = vec![f32::NAN; m * c_stride];
            let (a_part, b_part) = (Matrix::strided(&a[2..], m, k, a_stride), Matrix::strided(&b[1..], n, k, b_stride));
            matmul_strided(&mut c[3..], c_stride, a_part, b_part.t(), false, 0.5);
            for (i, c) in c.iter().enumerate() {
                let (row, column) = (i / c_stride, (i % c_stride).wrapping_sub(3));
                if column < n {
                    let plain: f64 = (0..k).map(|l| a[2 + row * a_stride + l] as f64 * b[1 + column * b_stride + l] as f64).sum();
                    assert!((*c as f64 - 0.5 * plain).abs() < 1e-5, "{m}x{n}x{k} at {row}, {column}");
                } else {
                    assert!(c.is_nan(), "{m}x{n}x{k}: written outside at {i}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "a matrix outside its slice")]
    fn a_stride_that_overflows_is_refused() {
        Matrix::strided(&[0.0; 4], 2, 2, usize::MAX);
    }

    #[test]
    #[should_panic(expected = "rows outside their matrix")]
    fn rows_outside_their_matrix_are_refused() {
        Matrix::new(&[0.0; 6], 2, 3).t().rows_from(2, 2);
    }

    #[test]
    fn products_of_odd_shapes_and_transposes_equal_the_plain_sum() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (33, 17, 65), (70, 129, 40), (300, 31, 2)] {
            let a: Vec<f32> = (0..m * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let b: Vec<f32> = (0..n * k).map(|i| ((i * 53 % 97) as f32 - 48.0) / 48.0).collect();
            let at: Vec<f32> = (0..m * k).map(|i| a[i % m * k + i / m]).collect(); // [k, m]
            let plain = |i: usize| (0..k).map(|l| a[i / n * k + l] as f64 * b[i % n * k + l] as f64).sum::<f64>();
            for (label, a) in [("nt", Matrix::new(&a, m, k)), ("tt", Matrix::new(&at, k, m).t())] {
                let mut c = vec![0.5; m * n];
                matmul(&mut c, a, Matrix::new(&b, n, k).t(), true, |row, c| c.iter_mut().for_each(|v| *v += row as f32 * 0.0));
                for (i, v) in c.iter().enumerate() {
                    assert!((*v as f64 - 0.5 - plain(i)).abs() < 1e-4, "{label} {m}x{n}x{k} at {i}");
                }
            }
        }
    }
}
