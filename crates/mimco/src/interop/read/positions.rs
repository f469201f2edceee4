//! Resizing of position embeddings: bicubic with antialiasing, as timm's `resample_abs_pos_embed`
//! and PyTorch's `interpolate` do it.

/// Parameter of cubic convolution (Keys 1981) in PyTorch's antialiased filter.
const A: f64 = -0.5;

/// Resizes positions `[1 + from², width]` of a class token and a grid of patches, row by row, to
/// `[1 + to², width]`. The class token's position remains as it is.
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

/// Returns, for each place of the new line, the first old place that contributes to it, and the
/// weights of that place and the ones after it.
fn weights(from: usize, to: usize) -> Vec<(usize, Vec<f64>)> {
    let scale = from as f64 / to as f64;
    let wide = scale.max(1.0);
    (0..to)
        .map(|place| {
            let center = scale * (place as f64 + 0.5);
            let first = (center - 2.0 * wide + 0.5).max(0.0) as usize;
            let end = ((center + 2.0 * wide + 0.5) as usize).min(from);
            let taps: Vec<f64> = (first..end).map(|old| cubic((old as f64 - center + 0.5) / wide)).collect();
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

/// Resamples lines of positions: `[lines, from, width]` -> `[lines, to, width]`.
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

/// Transposes a grid: `[rows, columns, width]` -> `[columns, rows, width]`.
fn transpose(grid: &[f64], rows: usize, columns: usize, width: usize) -> Vec<f64> {
    (0..columns * rows).flat_map(|i| &grid[(i % rows * columns + i / rows) * width..][..width]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn resizing_to_the_same_grid_is_the_identity((side, width, seed) in (1usize..12, 1usize..9, any::<u32>())) {
            let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) ^ seed) as f32 / 2e9 - 1.0;
            let positions: Vec<f32> = (0..(1 + side * side) * width).map(value).collect();
            prop_assert_eq!(resize(&positions, width, side, side), positions);
        }

        /// The weights of a place sum to 1, so equal positions stay equal at any size.
        #[test]
        fn equal_positions_stay_equal((from, to) in (1usize..12, 1usize..24)) {
            let resized = resize(&vec![0.75; 1 + from * from], 1, from, to);
            prop_assert_eq!(resized.len(), 1 + to * to);
            prop_assert!(resized.iter().all(|v| (v - 0.75).abs() < 1e-6));
        }
    }
}
