//! Partial decoding of JPEGs: rows are decoded down to the last needed one, at a half, a quarter or
//! an eighth of the size if that is sufficient. Files with unusual headers are left to the `image`
//! crate.

use crate::decode::region::Need;
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use jpeg_decoder::ColorTransform;
use std::borrow::Cow;
use std::ops::Range;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Limit of the scans of a progressive image after the first. `jpeg_decoder` has no limit and
/// decodes each scan over the whole image, so a small file could keep it busy for hours.
const MAX_SCANS: usize = 100;

/// Limit of the scans of a baseline image, including those of appended images.
const MAX_BASELINE_SCANS: usize = 5;

/// The contents of a JPEG before its pixels.
pub(crate) struct Header {
    /// Width in pixels, as stored.
    pub(crate) width: u32,
    /// Height in pixels, as stored.
    pub(crate) height: u32,
    /// EXIF orientation of the stored image.
    orientation: Orientation,
    frame: Frame,
    /// Offset of the first scan's data.
    scan: usize,
    /// Whether the first scan contains all components.
    whole_scan: bool,
    /// Whether there are restart markers.
    restarts: bool,
    /// Whether red, green and blue are stored instead of luma and chroma.
    rgb: bool,
}

struct Frame {
    /// Offset of the height in the file.
    height_at: usize,
    progressive: bool,
    /// Number of components, 1 or 3.
    components: u8,
    /// Identifiers of the components.
    names: [u8; 3],
    /// Number of rows that are coded together.
    block_rows: u32,
    /// Whether chroma has a lower resolution than luma.
    subsampled: bool,
}

impl Header {
    /// Parses the header of a JPEG. Returns `None` unless it has eight bits per sample, is
    /// Huffman-coded, and is grayscale or has three components with a usual chroma subsampling.
    pub(crate) fn read(bytes: &[u8]) -> Option<Header> {
        if !bytes.starts_with(&[0xff, 0xd8]) {
            return None;
        }
        let mut at = 2;
        let (mut frame, mut adobe, mut orientation, mut restarts) = (None, None, Orientation::NoTransforms, false);
        loop {
            let &[0xff, marker, high, low] = bytes.get(at..at + 4)? else { return None };
            if marker == 0xff {
                at += 1; // fill byte before a marker
                continue;
            }
            let length = u16::from_be_bytes([high, low]) as usize;
            let segment = bytes.get(at + 4..at + 2 + length)?;
            match marker {
                0xc0..=0xc2 if frame.is_none() => frame = Some((Frame::read(marker, segment, at + 4)?, size(segment)?)),
                0xc4 | 0xdb | 0xe0 | 0xe2..=0xed | 0xef | 0xfe => {} // tables, application data, comments
                0xdd => restarts = segment != [0, 0],
                0xe1 if segment.len() > 6 && segment.starts_with(b"Exif\0\0") => {
                    orientation = Orientation::from_exif_chunk(&segment[6..]).unwrap_or(Orientation::NoTransforms);
                }
                0xe1 => {}
                0xee if segment.starts_with(b"Adobe") => {
                    // After the frame, decoders disagree on its meaning.
                    adobe = segment.get(11).copied().filter(|transform| *transform <= 2 && frame.is_none());
                    adobe?;
                }
                0xee => {}
                0xda => {
                    let (frame, (width, height)) = frame?;
                    let whole_scan = segment.first() == Some(&frame.components);
                    let rgb = frame.components == 3 && (&frame.names == b"RGB" || adobe == Some(0));
                    return Some(Header { width, height, orientation, frame, scan: at + 2 + length, whole_scan, restarts, rgb });
                }
                _ => return None,
            }
            at += 2 + length;
        }
    }

    /// Returns width and height after applying the EXIF orientation.
    pub(crate) fn oriented_size(&self) -> (u32, u32) {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        match self.orientation {
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => (self.height, self.width),
            _ => (self.width, self.height),
        }
    }

    /// Decodes the needed region; returns the oriented image and its reduction factor. The image
    /// has the size of the whole image divided by the factor, with black pixels outside the needed
    /// region. Returns `None` if the decoder fails.
    pub(crate) fn decode(&self, bytes: &[u8], need: &Need) -> Option<(DynamicImage, u32)> {
        let rows = self.stored_rows(need);
        // The full-size decoder garbles baseline images with subsampled chroma in separate scans.
        let garbled = !self.frame.progressive && !self.whole_scan && self.frame.subsampled;
        let factor = [8, 4, 2].into_iter().find(|factor| *factor <= need.factor).or(garbled.then_some(1));
        let (image, factor) = match factor.and_then(|factor| self.reduced(bytes, rows, factor)) {
            Some(reduced) => reduced,
            None => (self.full(bytes, rows)?, 1),
        };
        let mut image = DynamicImage::ImageRgb8(image);
        image.apply_orientation(self.orientation);
        Some((image, factor))
    }

    /// Returns the number of stored rows, from the first, that contain everything needed.
    fn stored_rows(&self, need: &Need) -> u32 {
        use Orientation::{FlipHorizontal, FlipVertical, NoTransforms, Rotate90, Rotate90FlipH, Rotate180, Rotate270, Rotate270FlipH};
        let from_the_end = |range: &Range<u32>| self.height.saturating_sub(range.start);
        let rows = match self.orientation {
            NoTransforms | FlipHorizontal => need.rows.end,
            Rotate180 | FlipVertical => from_the_end(&need.rows),
            Rotate90FlipH | Rotate270 => need.columns.end,
            Rotate90 | Rotate270FlipH => from_the_end(&need.columns),
        };
        rows.min(self.height)
    }

    /// Decodes at full size, with the decoder of the `image` crate and the same result.
    fn full(&self, bytes: &[u8], rows: u32) -> Option<RgbImage> {
        // If there are several scans, this decoder needs the original height to find the next one.
        let (bytes, height) =
            if self.frame.progressive || !self.whole_scan { (Cow::Borrowed(bytes), self.height) } else { self.cut(bytes, rows, 1) };
        let options = DecoderOptions::default()
            .set_strict_mode(false)
            .set_max_width(usize::MAX)
            .set_max_height(usize::MAX)
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&*bytes), options);
        decoder.decode_headers().ok()?;
        if decoder.dimensions() != Some((self.width as usize, height as usize)) {
            return None;
        }
        let mut pixels = vec![0; self.width as usize * self.height as usize * 3];
        decoder.decode_into(&mut pixels).ok()?;
        RgbImage::from_raw(self.width, self.height, pixels)
    }

    /// Decodes at a half, a quarter or an eighth of the size, from the low frequencies alone, or at
    /// full size, with the `jpeg_decoder` crate.
    fn reduced(&self, bytes: &[u8], rows: u32, factor: u32) -> Option<(RgbImage, u32)> {
        let scans = bytes.get(self.scan..)?.windows(2).filter(|pair| *pair == [0xff, 0xda]).count();
        if scans > if self.frame.progressive { MAX_SCANS } else { MAX_BASELINE_SCANS } {
            return None;
        }
        // This decoder refuses restart markers after the last row, so such files are not cut.
        let (bytes, height) = if self.restarts { (Cow::Borrowed(bytes), self.height) } else { self.cut(bytes, rows, factor) };
        let mut decoder = jpeg_decoder::Decoder::new(&*bytes);
        let colors = match (self.frame.components, self.rgb) {
            (1, _) => ColorTransform::Grayscale,
            (_, true) => ColorTransform::RGB,
            (_, false) => ColorTransform::YCbCr,
        };
        decoder.set_color_transform(colors);
        let wanted = (self.width.div_ceil(factor), height.div_ceil(factor));
        let given = decoder.scale(wanted.0 as u16, wanted.1 as u16).ok()?;
        if (given.0 as u32, given.1 as u32) != wanted {
            return None; // images of a few pixels
        }
        let mut pixels = decoder.decode().ok()?;
        if self.frame.components == 1 {
            pixels = pixels.into_iter().flat_map(|value| [value; 3]).collect();
        }
        let (width, height) = (wanted.0, self.height.div_ceil(factor));
        pixels.resize(width as usize * height as usize * 3, 0);
        RgbImage::from_raw(width, height, pixels).map(|image| (image, factor))
    }

    /// Returns the file with a lower height in its header, so that decoders stop early, and that
    /// height. One row more than needed is kept, as the last row's chroma is mixed with the next
    /// row's.
    fn cut<'a>(&self, bytes: &'a [u8], rows: u32, factor: u32) -> (Cow<'a, [u8]>, u32) {
        let height = rows.saturating_add(factor).next_multiple_of(self.frame.block_rows);
        let at = self.frame.height_at;
        match u16::try_from(height) {
            Ok(short) if height < self.height => {
                let mut bytes = bytes.to_vec();
                bytes[at..at + 2].copy_from_slice(&short.to_be_bytes());
                (Cow::Owned(bytes), height)
            }
            _ => (Cow::Borrowed(bytes), self.height),
        }
    }
}

impl Frame {
    /// Parses a frame's segment that begins at offset `start`.
    fn read(marker: u8, segment: &[u8], start: usize) -> Option<Frame> {
        let &[8, _, _, _, _, components, ref rest @ ..] = segment else { return None };
        // For each component: identifier, sampling (horizontal, vertical) in four bits each, and
        // table.
        let (names, rows, subsampled) = match *rest {
            [name, 0x11, _] => ([name, 0, 0], 1, false),
            [y, sampled @ (0x11 | 0x21 | 0x12 | 0x22 | 0x41), _, cb, 0x11, _, cr, 0x11, _] => {
                ([y, cb, cr], (sampled & 15) as u32, sampled != 0x11)
            }
            _ => return None,
        };
        let frame = Frame { height_at: start + 1, progressive: marker == 0xc2, components, names, block_rows: 8 * rows, subsampled };
        (rest.len() == 3 * components as usize).then_some(frame)
    }
}

/// Returns width and height of a frame's segment.
fn size(segment: &[u8]) -> Option<(u32, u32)> {
    let &[_, high, low, wide, narrow, ..] = segment else { return None };
    let (width, height) = (u16::from_be_bytes([wide, narrow]) as u32, u16::from_be_bytes([high, low]) as u32);
    (width > 0 && height > 0).then_some((width, height))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a start-of-image marker and segments, up to the data of the first scan.
    fn file(segments: &[(u8, &[u8])]) -> Vec<u8> {
        let segment = |(marker, content): &(u8, &[u8])| [&[0xff, *marker][..], &(content.len() as u16 + 2).to_be_bytes(), content].concat();
        [vec![0xff, 0xd8], segments.iter().flat_map(segment).collect()].concat()
    }

    const FRAME: (u8, &[u8]) = (0xc0, &[8, 0, 20, 1, 44, 3, 1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0]);
    const SCAN: (u8, &[u8]) = (0xda, &[3, 1, 0, 2, 0, 3, 0, 0, 63, 0]);
    const EXIF: (u8, &[u8]) = (0xe1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0");

    #[test]
    fn a_header_is_parsed() {
        let header = Header::read(&file(&[FRAME, SCAN])).unwrap();
        assert_eq!((header.width, header.height, header.orientation), (300, 20, Orientation::NoTransforms));
        assert!(header.whole_scan && !header.restarts && !header.rgb && !header.frame.progressive);
        assert_eq!((header.frame.height_at, header.frame.block_rows), (7, 16));

        let scan = (0xda, &[1, 1, 0, 0, 63, 0][..]);
        let adobe = (0xee, &b"Adobe\0\x64\0\0\0\0\0"[..]);
        let filled = [&file(&[EXIF, adobe, (0xdd, &[0, 4])])[..], &[0xff, 0xff], &file(&[(0xc2, FRAME.1), scan])[2..]].concat();
        let header = Header::read(&filled).unwrap();
        assert_eq!((header.oriented_size(), header.orientation), ((20, 300), Orientation::Rotate90));
        assert!(!header.whole_scan && header.restarts && header.rgb && header.frame.progressive);
    }

    #[test]
    fn unusual_headers_are_left_to_the_image_crate() {
        let with = |offset: usize, value: u8| {
            let mut content = FRAME.1.to_vec();
            content[offset] = value;
            Header::read(&file(&[(0xc0, &content), SCAN])).is_some()
        };
        assert!(with(7, 0x41) && with(7, 0x12));
        // Twelve bits, two components, chroma at luma's resolution, four rows of luma.
        assert!(!with(0, 12) && !with(5, 2) && !with(10, 0x22) && !with(7, 0x14));
        for segments in [
            &[FRAME, FRAME, SCAN][..],
            &[SCAN],
            &[FRAME],
            &[(0xc9, FRAME.1), SCAN],
            &[(0xc0, &FRAME.1[..14]), SCAN],
            &[FRAME, (0xee, b"Adobe\0\x64\0\0\0\0\x01"), SCAN],
            &[(0xee, b"Adobe\0\x64\0\0\0\0\x03"), FRAME, SCAN],
            &[(0xee, b"Adobe"), FRAME, SCAN],
            &[(0xc0, &[8, 0, 0, 1, 44, 1, 1, 0x11, 0]), SCAN],
        ] {
            assert!(Header::read(&file(segments)).is_none(), "{segments:?}");
        }
        let whole = file(&[EXIF, FRAME, SCAN]);
        (0..whole.len()).for_each(|end| assert!(Header::read(&whole[..end]).is_none()));
    }

    #[test]
    fn a_cut_keeps_one_more_row_than_needed_in_whole_blocks() {
        let mut bytes = file(&[(0xc0, &[8, 0, 100, 0, 9, 1, 1, 0x11, 0]), (0xda, &[1, 1, 0, 0, 63, 0])]);
        let header = Header::read(&bytes).unwrap();
        for (rows, kept) in [(0, 8), (7, 8), (8, 16), (94, 96), (95, 96), (96, 100), (100, 100)] {
            let (cut, height) = header.cut(&bytes, rows, 1);
            assert_eq!((height, Header::read(&cut).unwrap().height), (kept, kept), "{rows}");
        }
        let (cut, _) = header.cut(&bytes, 8, 1);
        let cut = cut.into_owned();
        bytes[8] = 16;
        assert_eq!(cut, bytes);
    }
}
