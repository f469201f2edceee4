//! Affine maps of a view's planes as PIL's `Image.transform` with AFFINE makes them: in f64 and in its order, so that every byte is the same.

use crate::planes::{Planes, whole, wide};
use crate::resize::Filter;
use std::ops::Range;

/// Pixels repeated beyond each edge: as far as a cubic reaches.
const BORDER: usize = 2;

/// A target pixel's centre (x, y) lies over (a x + b y + c, d x + e y + f) of the source: [a, b, c, d, e, f].
pub type Matrix = [f64; 6];

/// Rotated around the centre, anticlockwise by degrees; what comes from outside the view gets the colour `fill`.
pub fn rotate(image: &mut Planes, degrees: f64, filter: Filter, fill: [u8; 3]) {
    let turn = degrees.rem_euclid(360.0);
    if turn == 0.0 {
        return;
    }
    let (sine, cosine) = (-turn.to_radians()).sin_cos();
    // To 15 decimals, as PIL has it.
    let rounded = |x: f64| (x * 1e15).round_ties_even() / 1e15;
    let (a, b) = (rounded(cosine), rounded(sine));
    let (x, y) = (image.width as f64 / 2.0, image.height() as f64 / 2.0);
    transform(image, [a, b, a * -x + b * -y + x, -b, a, -b * -x + a * -y + y], filter, fill);
}

/// Mapped by a matrix; what comes from outside the view gets the colour `fill`.
pub fn transform(image: &mut Planes, matrix: Matrix, filter: Filter, fill: [u8; 3]) {
    match filter {
        Filter::Bilinear => transform_by(image, matrix, fill, linear),
        Filter::Bicubic => transform_by(image, matrix, fill, cubic),
    }
}

/// Between the second and the third of four values.
#[inline(always)]
fn linear([_, p, q, _]: [f64; 4], part: f64) -> f64 {
    p + (q - p) * part
}

/// As `linear`, by PIL's cubic for this purpose, whose a is -1.
#[inline(always)]
fn cubic([o, p, q, r]: [f64; 4], part: f64) -> f64 {
    p + part * (q - o + part * (2.0 * (o - p) + q - r + part * (p - o - q + r)))
}

/// By a curve through four values, across and then down. Along an axis on which pixels stay, it would give their second value itself.
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

/// The four bytes of a number.
#[inline(always)]
fn values(four: u32) -> [f64; 4] {
    let value = |shift: u32| (four >> shift & 255) as i32 as f64;
    [value(0), value(8), value(16), value(24)]
}

/// By `mix` of a pixel's neighbours (four rows of four bytes, of which it uses `rows`) and of its place between them, across and down.
fn transform_rows(image: &mut Planes, matrix: Matrix, fill: [u8; 3], rows: Range<usize>, mix: impl Fn([u32; 4], [f64; 2]) -> f64) {
    let (width, height) = (image.width, image.height());
    if height == 0 {
        return;
    }
    let source = Padded::of(image);
    let mut row = Row::new(width);
    for y in 0..height {
        wide(
            #[inline(always)]
            || row.find(y as f64 + 0.5, matrix, &source),
        );
        let covered = row.covered();
        for (channel, plane) in image.channels().into_iter().enumerate() {
            row.gather(&source, channel, rows.clone(), covered.clone());
            let out = &mut plane[y * width..][..width];
            out[..covered.start].fill(fill[channel]);
            out[covered.end..].fill(fill[channel]);
            wide(
                #[inline(always)]
                || row.mix(&mut out[covered.clone()], covered.clone(), &mix),
            );
        }
    }
}

/// Planes with their edges' pixels repeated around them, so that no pixel's neighbours need be looked for.
struct Padded {
    /// Pixels across and down, without the border.
    size: (usize, usize),
    /// Pixels from one row to the next.
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

/// What a row of the target is made of, a value for each of its pixels.
struct Row {
    /// Whether it lies over the source; what is below holds for those that do.
    inside: Vec<bool>,
    /// Where the first of its sixteen neighbours is in a padded plane.
    first: Vec<u32>,
    /// How far it lies from its second neighbour to its third, across and down.
    parts: [Vec<f64>; 2],
    /// Its neighbours in four rows, each four bytes.
    neighbours: [Vec<u32>; 4],
}

impl Row {
    fn new(width: usize) -> Row {
        Row {
            inside: vec![false; width],
            first: vec![0; width],
            parts: [vec![0.0; width], vec![0.0; width]],
            neighbours: std::array::from_fn(|_| vec![0; width]),
        }
    }

    /// Finds where the pixels of the row whose middle is at `y` lie.
    #[inline(always)]
    fn find(&mut self, y: f64, [a, b, c, d, e, f]: Matrix, source: &Padded) {
        const WHOLE: f64 = (1u64 << 52) as f64;
        let (width, height, stride) = (source.size.0 as f64, source.size.1 as f64, source.stride as f64);
        let [across, down] = &mut self.parts;
        let pixels = self.inside.iter_mut().zip(&mut self.first).zip(across.iter_mut().zip(down));
        for (x, ((inside, first), (across, down))) in pixels.enumerate() {
            let x = x as u32 as f64 + 0.5;
            let (x, y) = (a * x + b * y + c, d * x + e * y + f);
            *inside = (x >= 0.0) & (x < width) & (y >= 0.0) & (y < height);
            let (x, y) = (x - 0.5, y - 0.5);
            let (column, row) = (x.floor(), y.floor()); // from -1
            (*across, *down) = (x - column, y - row);
            // A whole number below 2^52, added to it, lies in the lowest bits: a conversion's checks would not go many at once.
            *first = ((row + 1.0) * stride + (column + 1.0) + WHOLE).to_bits() as u32;
        }
    }

    /// The pixels that lie over the source: one run of them, since along a row each coordinate only grows or only falls.
    fn covered(&self) -> Range<usize> {
        let end = self.inside.iter().rposition(|inside| *inside).map_or(0, |last| last + 1);
        self.inside[..end].iter().position(|inside| *inside).unwrap_or(0)..end
    }

    /// Fetches a channel's neighbours of some rows for some pixels.
    fn gather(&mut self, source: &Padded, channel: usize, rows: Range<usize>, pixels: Range<usize>) {
        let plane = source.pixels.len() / 3;
        let plane = &source.pixels[channel * plane..][..plane];
        for row in rows {
            let plane = &plane[row * source.stride..];
            for (four, first) in self.neighbours[row][pixels.clone()].iter_mut().zip(&self.first[pixels.clone()]) {
                let found = plane.get(*first as usize..).and_then(|rest| rest.first_chunk());
                *four = found.map_or(0, |four| u32::from_le_bytes(*four));
            }
        }
    }

    /// Mixes them into these pixels.
    #[inline(always)]
    fn mix(&self, out: &mut [u8], pixels: Range<usize>, mix: impl Fn([u32; 4], [f64; 2]) -> f64) {
        let [across, down] = self.parts.each_ref().map(|parts| &parts[pixels.clone()]);
        let [o, p, q, r] = self.neighbours.each_ref().map(|four| &four[pixels.clone()]);
        let rows = o.iter().zip(p).zip(q.iter().zip(r));
        for ((out, ((o, p), (q, r))), (x, y)) in out.iter_mut().zip(rows).zip(across.iter().zip(down)) {
            *out = whole(mix([*o, *p, *q, *r], [*x, *y])) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean of two neighbours, and their cubic in the middle: (5 (q + p) - (o + r)) / 8 for a = -1.
    #[test]
    fn a_shift_by_half_a_pixel_lies_between_neighbours() {
        let shift = |filter| {
            let mut image = Planes { width: 5, pixels: [10, 20, 40, 80, 160].repeat(3) };
            transform(&mut image, [1.0, 0.0, 0.5, 0.0, 1.0, 0.0], filter, [1, 2, 3]);
            image.pixels
        };
        assert_eq!(shift(Filter::Bilinear), [[15, 30, 60, 120, 1], [15, 30, 60, 120, 2], [15, 30, 60, 120, 3]].concat());
        assert_eq!(shift(Filter::Bicubic)[..5], [12, 26, 52, 125, 1]);
    }

    /// Where the matrix moves pixels along one axis only, a shorter way is taken than for one that hardly moves them along the other.
    #[test]
    fn both_ways_to_a_map_along_one_axis_are_the_same() {
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
        assert_eq!(image.pixels[..4], [3, 7, 11, 15]); // the right column, from its top: anticlockwise
        for _ in 0..3 {
            rotate(&mut image, 90.0, Filter::Bicubic, [0; 3]);
        }
        assert_eq!(image.pixels, before);
        rotate(&mut image, 0.0, Filter::Bicubic, [0; 3]);
        assert_eq!(image.pixels, before);
    }

    #[test]
    fn odd_maps_fill_and_an_empty_view_stays_empty() {
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
