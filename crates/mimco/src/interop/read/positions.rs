//! Position embeddings of another grid: bicubic with antialiasing, as timm's `resample_abs_pos_embed` and PyTorch's `interpolate` do it.

/// Cubic convolution's parameter (Keys 1981) in PyTorch's antialiased filter.
const A: f64 = -0.5;

/// Positions of a class token and `from` x `from` patches -> of the class token and `to` x `to` patches, row by row: [1 + grid², width].
pub(crate) fn resize(positions: &[f32], width: usize, from: usize, to: usize) -> Vec<f32> {
    let (class, grid) = positions.split_at(width);
    let weights = weights(from, to);
    // Along the rows of the grid, then down its columns.
    let across = resample(grid, from, from, width, &weights); // [from, to, width]
    let down = transpose(&across, from, to, width); // [to, from, width]
    let both = resample(&down, to, from, width, &weights); // [to, to, width], columns first
    let resized = transpose(&both, to, to, width);
    class.iter().copied().chain(resized.iter().map(|&v| v as f32)).collect()
}

/// For each place of the new line the first old place and the weights of it and those after it.
fn weights(from: usize, to: usize) -> Vec<(usize, Vec<f64>)> {
    let scale = from as f64 / to as f64;
    let wide = scale.max(1.0);
    (0..to)
        .map(|place| {
            let centre = scale * (place as f64 + 0.5);
            let first = (centre - 2.0 * wide + 0.5).max(0.0) as usize;
            let end = ((centre + 2.0 * wide + 0.5) as usize).min(from);
            let taps: Vec<f64> = (first..end).map(|old| cubic((old as f64 - centre + 0.5) / wide)).collect();
            let sum: f64 = taps.iter().sum();
            (first, taps.into_iter().map(|tap| tap / sum).collect())
        })
        .collect()
}

fn cubic(x: f64) -> f64 {
    let x = x.abs();
    match x {
        _ if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

/// [lines, from, width] -> [lines, to, width]
fn resample<T: Copy + Into<f64>>(grid: &[T], lines: usize, from: usize, width: usize, weights: &[(usize, Vec<f64>)]) -> Vec<f64> {
    let mut out = vec![0.0; lines * weights.len() * width];
    for (i, out) in out.chunks_exact_mut(width).enumerate() {
        let (line, (first, taps)) = (i / weights.len(), &weights[i % weights.len()]);
        for (old, tap) in taps.iter().enumerate() {
            let place = &grid[(line * from + first + old) * width..][..width];
            out.iter_mut().zip(place).for_each(|(o, &p)| *o += tap * p.into());
        }
    }
    out
}

/// [rows, columns, width] -> [columns, rows, width]
fn transpose(grid: &[f64], rows: usize, columns: usize, width: usize) -> Vec<f64> {
    (0..columns * rows).flat_map(|i| &grid[(i % rows * columns + i / rows) * width..][..width]).copied().collect()
}
