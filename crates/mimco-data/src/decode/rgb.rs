//! Decoded images.

use crate::error::DataError;
use std::io::Cursor;

/// An 8-bit RGB image, rows from the top.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rgb {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Pixels [height, width, 3].
    pub pixels: Vec<u8>,
}

impl Rgb {
    /// Encodes the image as a PNG file.
    ///
    /// # Errors
    /// Fails if the number of pixels does not match width and height.
    pub fn to_png(&self) -> Result<Vec<u8>, DataError> {
        let error = |what: String| DataError::Image { name: "image".into(), what };
        let image = image::RgbImage::from_raw(self.width, self.height, self.pixels.clone())
            .ok_or_else(|| error("its pixels do not match its width and height".into()))?;
        let mut png = Cursor::new(Vec::new());
        image.write_to(&mut png, image::ImageFormat::Png).map_err(|e| error(e.to_string()))?;
        Ok(png.into_inner())
    }
}
