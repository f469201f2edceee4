//! Grid of small images for a report, as one PNG file.

use crate::Error;
use mimco_data::Rgb;

/// Factor by which images are enlarged.
const SCALE: usize = 2;
/// Space after each image in px.
const MARGIN: usize = 4;

/// Draws images row by row in a grid of `columns` columns, enlarged twofold on white. A wider gap
/// separates the first column from the rest. Returns a PNG file.
///
/// # Errors
/// A grid without images, or one that cannot be encoded.
///
/// # Panics
/// If `columns` is 0.
pub fn png(images: &[Rgb], columns: usize) -> Result<Vec<u8>, Error> {
    let largest = images.iter().map(|image| image.width.max(image.height)).max().unwrap_or(0);
    let cell = SCALE * largest as usize + MARGIN;
    let gap = cell / 4;
    let (width, height) = (columns * cell + gap, images.len().div_ceil(columns) * cell);
    let mut grid = Rgb { width: width as u32, height: height as u32, pixels: vec![255; 3 * width * height] };
    for (i, image) in images.iter().enumerate() {
        let (row, column) = (i / columns, i % columns);
        let left = column * cell + if column > 0 { gap } else { 0 };
        let (image_width, image_height) = (image.width as usize, image.height as usize);
        for (y, x) in (0..SCALE * image_height).flat_map(|y| (0..SCALE * image_width).map(move |x| (y, x))) {
            let from = 3 * (y / SCALE * image_width + x / SCALE);
            let to = 3 * ((row * cell + y) * width + left + x);
            grid.pixels[to..to + 3].copy_from_slice(&image.pixels[from..from + 3]);
        }
    }
    Ok(grid.to_png()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_enlarged_images_with_gaps_on_white() {
        let dot = |value: u8| Rgb { width: 2, height: 1, pixels: vec![value; 6] };
        let file = png(&[dot(10), dot(20), dot(30)], 2).unwrap();
        let grid = mimco_data::decode::decode(&file, "grid.png", 1 << 20).unwrap();
        assert_eq!((grid.width, grid.height), (18, 16));
        let pixel = |x: usize, y: usize| grid.pixels[3 * (y * 18 + x)];
        assert_eq!([pixel(0, 0), pixel(3, 1), pixel(4, 0), pixel(0, 2)], [10, 10, 255, 255]);
        assert_eq!([pixel(9, 0), pixel(10, 0), pixel(13, 1), pixel(14, 0)], [255, 20, 20, 255]);
        assert_eq!([pixel(0, 8), pixel(10, 8)], [30, 255]);
    }
}
