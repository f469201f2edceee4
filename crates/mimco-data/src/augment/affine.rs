//! Affine transforms of a view's planes. They compute in f64 and in the order of PIL's
//! `Image.transform` with AFFINE, so every byte is equal.

use crate::augment::planes::{Planes, whole, with_simd};
use crate::augment::resize::Filter;
use std::ops::Range;

/// Number of pixels repeated beyond each edge, the reach of a cubic filter.
const BORDER: usize = 2;

/// [a, b, c, d, e, f]: a target pixel's center (x, y) maps to (a x + b y + c, d x + e y + f) of the
/// source.
pub type Matrix = [f64; 6];

/// Rotates counterclockwise around the center. Pixels from outside the view get the color `fill`.
pub fn rotate(image: &mut Planes, degrees: f64, filter: Filter, fill: [u8; 3]) {
    let turn = degrees.rem_euclid(360.0);
    if turn == 0.0 {
        return;
    }
    let (sine, cosine) = (-turn.to_radians()).sin_cos();
    // Rounded to 15 decimals, as in PIL.
    let rounded = |x: f64| (x * 1e15).round_ties_even() / 1e15;
    let (a, b) = (rounded(cosine), rounded(sine));
    let (x, y) = (image.width as f64 / 2.0, image.height() as f64 / 2.0);
    transform(image, [a, b, a * -x + b * -y + x, -b, a, -b * -x + a * -y + y], filter, fill);
}

/// Transforms by a matrix. Pixels from outside the view get the color `fill`.
pub fn transform(image: &mut Planes, matrix: Matrix, filter: Filter, fill: [u8; 3]) {
    match filter {
        Filter::Bilinear => transform_by(image, matrix, fill, linear),
        Filter::Bicubic => transform_by(image, matrix, fill, cubic),
    }
}

/// Interpolates linearly between the second and the third of four values.
#[inline(always)]
fn linear([_, p, q, _]: [f64; 4], part: f64) -> f64 {
    p + (q - p) * part
}

/// Interpolates as `linear` does, by PIL's cubic for transforms, with a = -1.
#[inline(always)]
fn cubic([o, p, q, r]: [f64; 4], part: f64) -> f64 {
    p + part * (q - o + part * (2.0 * (o - p) + q - r + part * (p - o - q + r)))
}

/// Transforms by interpolating with `curve`, horizontally and then vertically. Along an axis on
/// which pixels do not move, the interpolation is skipped, as it would return the second value
/// itself.
fn transform_by(image: &mut Planes, matrix: Matrix, fill: [u8; 3], curve: impl Fn([f64; 4], f64) -> f64 + Copy) {
    match matrix {
        [.., 0.0, 1.0, 0.0] => transform_rows(
            image,
            matrix,
            fill,
            1..2,
            #[inline(always)]
            |[_, p, _, _], [part, _]| curve(values(p), part),
        ),
        [1.0, 0.0, 0.0, ..] => transform_rows(
            image,
            matrix,
            fill,
            0..4,
            #[inline(always)]
            |[o, p, q, r], [_, part]| curve([values(o)[1], values(p)[1], values(q)[1], values(r)[1]], part),
        ),
        _ => transform_rows(
            image,
            matrix,
            fill,
            0..4,
            #[inline(always)]
            |[o, p, q, r], [x, y]| curve([curve(values(o), x), curve(values(p), x), curve(values(q), x), curve(values(r), x)], y),
        ),
    }
}

/// Returns the four bytes of a number.
#[inline(always)]
fn values(four: u32) -> [f64; 4] {
    let value = |shift: u32| (four >> shift & 255) as i32 as f64;
    [value(0), value(8), value(16), value(24)]
}

/// Transforms row by row. `mix` computes a pixel from its neighbors (four rows of four bytes, of
/// which it uses `rows`) and its horizontal and vertical position between them.
fn transform_rows(image: &mut Planes, matrix: Matrix, fill: [u8; 3], rows: Range<usize>, mix: impl Fn([u32; 4], [f64; 2]) -> f64) {
    let (width, height) = (image.width, image.height());
    if height == 0 {
        return;
    }
    let source = Padded::of(image);
    let mut row = Row::new(width);
    for y in 0..height {
        with_simd(
            #[inline(always)]
            || row.find(y as f64 + 0.5, matrix, &source),
        );
        let covered = row.covered();
        for (channel, plane) in image.channels().into_iter().enumerate() {
            row.gather(&source, channel, rows.clone(), covered.clone());
            let out = &mut plane[y * width..][..width];
            out[..covered.start].fill(fill[channel]);
            out[covered.end..].fill(fill[channel]);
            with_simd(
                #[inline(always)]
                || row.mix(&mut out[covered.clone()], covered.clone(), &mix),
            );
        }
    }
}

/// Planes padded with their edge pixels, so that every pixel has all neighbors.
struct Padded {
    /// Width and height in pixels, without the border.
    size: (usize, usize),
    /// Length of a padded row, pixels.
    stride: usize,
    pixels: Vec<u8>,
}

impl Padded {
    fn of(image: &mut Planes) -> Padded {
        let (width, height) = (image.width, image.height());
        let (stride, rows) = (width + 2 * BORDER, height + 2 * BORDER);
        let mut pixels = Vec::with_capacity(3 * stride * rows);
        for plane in image.channels() {
            for y in 0..rows {
                let row = &plane[y.saturating_sub(BORDER).min(height - 1) * width..][..width];
                pixels.extend_from_slice(&[row[0]; BORDER]);
                pixels.extend_from_slice(row);
                pixels.extend_from_slice(&[row[width - 1]; BORDER]);
            }
        }
        Padded { size: (width, height), stride, pixels }
    }
}

/// The inputs of a row of the target, with a value for each pixel.
struct Row {
    /// Whether the pixel maps to the source. The other fields are valid for these pixels only.
    inside: Vec<bool>,
    /// Offset in a padded plane of the first of the pixel's sixteen neighbors.
    first: Vec<u32>,
    /// Position between the second and the third neighbor, horizontal and vertical, from 0 to 1.
    fractions: [Vec<f64>; 2],
    /// The pixel's neighbors: four rows of four bytes.
    neighbors: [Vec<u32>; 4],
}

impl Row {
    fn new(width: usize) -> Row {
        Row {
            inside: vec![false; width],
            first: vec![0; width],
            fractions: [vec![0.0; width], vec![0.0; width]],
            neighbors: std::array::from_fn(|_| vec![0; width]),
        }
    }

    /// Computes the source positions of the row whose center is at `y`.
    #[inline(always)]
    fn find(&mut self, y: f64, [a, b, c, d, e, f]: Matrix, source: &Padded) {
        const WHOLE: f64 = (1u64 << 52) as f64;
        let (width, height, stride) = (source.size.0 as f64, source.size.1 as f64, source.stride as f64);
        let [across, down] = &mut self.fractions;
        let pixels = self.inside.iter_mut().zip(&mut self.first).zip(across.iter_mut().zip(down));
        for (x, ((inside, first), (across, down))) in pixels.enumerate() {
            let x = x as u32 as f64 + 0.5;
            let (x, y) = (a * x + b * y + c, d * x + e * y + f);
            *inside = (x >= 0.0) & (x < width) & (y >= 0.0) & (y < height);
            let (x, y) = (x - 0.5, y - 0.5);
            let (column, row) = (x.floor(), y.floor()); // from -1
            (*across, *down) = (x - column, y - row);
            // The sum with 2^52 has the integer in its lowest bits. Unlike a checked conversion,
            // this compiles to SIMD code.
            *first = ((row + 1.0) * stride + (column + 1.0) + WHOLE).to_bits() as u32;
        }
    }

    /// Returns the pixels that map to the source. They are consecutive, as each coordinate is
    /// monotonic along a row.
    fn covered(&self) -> Range<usize> {
        let end = self.inside.iter().rposition(|inside| *inside).map_or(0, |last| last + 1);
        self.inside[..end].iter().position(|inside| *inside).unwrap_or(0)..end
    }

    /// Loads the neighbors of some pixels from a channel.
    fn gather(&mut self, source: &Padded, channel: usize, rows: Range<usize>, pixels: Range<usize>) {
        let plane = source.pixels.len() / 3;
        let plane = &source.pixels[channel * plane..][..plane];
        for row in rows {
            let plane = &plane[row * source.stride..];
            for (four, first) in self.neighbors[row][pixels.clone()].iter_mut().zip(&self.first[pixels.clone()]) {
                let found = plane.get(*first as usize..).and_then(|rest| rest.first_chunk());
                *four = found.map_or(0, |four| u32::from_le_bytes(*four));
            }
        }
    }

    /// Computes pixels from their neighbors.
    #[inline(always)]
    fn mix(&self, out: &mut [u8], pixels: Range<usize>, mix: impl Fn([u32; 4], [f64; 2]) -> f64) {
        let [across, down] = self.fractions.each_ref().map(|fractions| &fractions[pixels.clone()]);
        let [o, p, q, r] = self.neighbors.each_ref().map(|four| &four[pixels.clone()]);
        let rows = o.iter().zip(p).zip(q.iter().zip(r));
        for ((out, ((o, p), (q, r))), (x, y)) in out.iter_mut().zip(rows).zip(across.iter().zip(down)) {
            *out = whole(mix([*o, *p, *q, *r], [*x, *y])) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean of two neighbors, and the cubic in the middle: (5 (q + p) - (o + r)) / 8 for a =
    /// -1.
    #[test]
    fn a_shift_by_half_a_pixel_is_between_neighbors() {
        let shift = |filter| {
            let mut image = Planes { width: 5, pixels: [10, 20, 40, 80, 160].repeat(3) };
            transform(&mut image, [1.0, 0.0, 0.5, 0.0, 1.0, 0.0], filter, [1, 2, 3]);
            image.pixels
        };
        assert_eq!(shift(Filter::Bilinear), [[15, 30, 60, 120, 1], [15, 30, 60, 120, 2], [15, 30, 60, 120, 3]].concat());
        assert_eq!(shift(Filter::Bicubic)[..5], [12, 26, 52, 125, 1]);
    }

    /// A matrix that moves pixels along one axis only takes a shortcut, which a tiny move along the
    /// other axis avoids.
    #[test]
    fn the_shortcut_along_one_axis_has_the_same_result() {
        let mapped = |filter, matrix| {
            let mut image = Planes { width: 23, pixels: (0..3 * 23 * 19).map(|i| (i * i % 251) as u8).collect() };
            transform(&mut image, matrix, filter, [7, 8, 9]);
            image.pixels
        };
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            for (one, other) in [
                ([1.0, 0.3, 0.0, 0.0, 1.0, 0.0], [1.0, 0.3, 0.0, 0.0, 1.0, 1e-300]),
                ([1.0, 0.0, 0.0, -0.3, 1.0, 4.3], [1.0, 0.0, 1e-300, -0.3, 1.0, 4.3]),
            ] {
                assert_eq!(mapped(filter, one), mapped(filter, other));
            }
        }
    }

    #[test]
    fn four_quarter_turns_are_nothing_and_one_moves_corners() {
        let before: Vec<u8> = (0..48).collect();
        let mut image = Planes { width: 4, pixels: before.clone() };
        rotate(&mut image, 90.0, Filter::Bicubic, [0; 3]);
        assert_eq!(image.pixels[..4], [3, 7, 11, 15]); // the right column, from its top: counterclockwise
        for _ in 0..3 {
            rotate(&mut image, 90.0, Filter::Bicubic, [0; 3]);
        }
        assert_eq!(image.pixels, before);
        rotate(&mut image, 0.0, Filter::Bicubic, [0; 3]);
        assert_eq!(image.pixels, before);
    }

    #[test]
    fn extreme_matrices_fill_and_an_empty_view_stays_empty() {
        for matrix in [[1.0, 0.0, 1e300, 0.0, 1.0, 0.0], [f64::NAN; 6], [f64::INFINITY; 6], [1.0, 0.0, 0.0, 0.0, 1.0, -2.0]] {
            let mut image = Planes { width: 1, pixels: vec![50, 60, 70] };
            transform(&mut image, matrix, Filter::Bicubic, [1, 2, 3]);
            assert_eq!(image.pixels, [1, 2, 3]);
            let mut empty = Planes { width: 0, pixels: Vec::new() };
            transform(&mut empty, matrix, Filter::Bicubic, [1, 2, 3]);
            assert!(empty.pixels.is_empty());
        }
    }
}
