//! Matrix products, by the `gemm` crate, cut into blocks of rows by the shape alone.

use super::threads::for_each_chunk;

/// A matrix inside a slice, with strides, so that a transpose costs nothing.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major, dense.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Matrix::strided(data, rows, cols, cols)
    }

    /// Rows of `cols` elements that begin `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || data.len() >= (rows - 1) * row_stride + cols, "a matrix outside its slice");
        Matrix { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Matrix { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    fn rows_from(self, first: usize, rows: usize) -> Self {
        Matrix { data: &self.data[(first * self.row_stride).min(self.data.len())..], rows, ..self }
    }
}

/// c = a·b, or c += a·b with `accumulate`; c dense, `a.rows` x `b.cols`, in one thread.
pub fn matmul_serial(c: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, accumulate: bool) {
    let n = b.cols;
    matmul_strided(c, n, a, b, accumulate, 1.0);
}

/// c = s a·b (or c += s a·b), c with rows that begin `c_stride` apart, in one thread.
pub fn matmul_strided(c: &mut [f32], c_stride: usize, a: Matrix<'_>, b: Matrix<'_>, accumulate: bool, s: f32) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "inner sizes differ");
    if m == 0 || n == 0 {
        return;
    }
    assert!(c_stride >= n && c.len() >= (m - 1) * c_stride + n, "the product outside its slice");
    // SAFETY: `Matrix` keeps every element (i, j) it names inside its slice, the assertion above does so for c, and c is
    // borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            s,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Rows a block: by the shape alone, never by the number of threads. An even number of blocks of 256 rows and more, since each packs the other
/// factor anew; two at least.
pub fn block_rows(m: usize) -> usize {
    let pairs = (m / 512).clamp(1, 32);
    m.div_ceil(2 * pairs).next_multiple_of(16)
}

/// c = a·b, or c += a·b with `accumulate`, in parallel over blocks of rows; `epilogue(first row, rows)` sees each block of c
/// while it is in cache.
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

/// C[m, n] = A[m, k] · B[n, k]ᵀ, all dense, in parallel.
pub fn matmul_nt(a: &[f32], b: &[f32], c: &mut [f32], m: usize, n: usize, k: usize) {
    matmul(c, Matrix::new(a, m, k), Matrix::new(b, n, k).t(), false, |_, _| {});
}

#[cfg(test)]
mod tests {
    use super::*;

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
