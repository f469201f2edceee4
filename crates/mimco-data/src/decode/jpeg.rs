//! JPEG: what its header says, and decoding no more of it than will be looked at: the rows down to the last one needed, and at a half, a
//! quarter or an eighth of the size where that is enough. Headers that are in any way unusual are left to the `image` crate.

use crate::decode::Need;
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use jpeg_decoder::ColorTransform;
use std::borrow::Cow;
use std::ops::Range;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Scans of a progressive picture, behind the first; `jpeg_decoder` reads any number, each over the whole picture: a small file could keep it
/// busy for hours.
const MOST_SCANS: usize = 100;

/// Scans of another one, those of pictures that are appended to it included.
const MOST_BASELINE_SCANS: usize = 5;

/// What stands before the pixels.
pub(crate) struct Header {
    /// Pixels across, as stored.
    pub(crate) width: u32,
    /// Pixels down, as stored.
    pub(crate) height: u32,
    /// How the stored picture has to be turned.
    orientation: Orientation,
    frame: Frame,
    /// Where the data of the first scan begins.
    scan: usize,
    /// The first scan holds all components.
    whole_scan: bool,
    restarts: bool,
    /// Red, green and blue are stored, not luma and chroma.
    rgb: bool,
}

struct Frame {
    /// Where the height lies in the file.
    height_at: usize,
    progressive: bool,
    /// One, or three.
    components: u8,
    /// Names of the components, for the first three.
    names: [u8; 3],
    /// Rows that are coded together.
    block_rows: u32,
    /// Whether chroma is coarser than luma.
    subsampled: bool,
}

impl Header {
    /// Of bytes that are a JPEG of eight bits, Huffman-coded, grey or of three components with chroma at most subsampled in a usual way.
    pub(crate) fn read(bytes: &[u8]) -> Option<Header> {
        if !bytes.starts_with(&[0xff, 0xd8]) {
            return None;
        }
        let mut at = 2;
        let (mut frame, mut adobe, mut orientation, mut restarts) = (None, None, Orientation::NoTransforms, false);
        loop {
            let &[0xff, marker, high, low] = bytes.get(at..at + 4)? else { return None };
            if marker == 0xff {
                at += 1; // filling before a mark
                continue;
            }
            let length = u16::from_be_bytes([high, low]) as usize;
            let segment = bytes.get(at + 4..at + 2 + length)?;
            match marker {
                0xc0..=0xc2 if frame.is_none() => frame = Some((Frame::read(marker, segment, at + 4)?, size(segment)?)),
                0xc4 | 0xdb | 0xe0 | 0xe2..=0xed | 0xef | 0xfe => {} // tables, data of applications, comments
                0xdd => restarts = segment != [0, 0],
                0xe1 if segment.len() > 6 && segment.starts_with(b"Exif\0\0") => {
                    orientation = Orientation::from_exif_chunk(&segment[6..]).unwrap_or(Orientation::NoTransforms);
                }
                0xe1 => {}
                0xee if segment.starts_with(b"Adobe") => {
                    // Behind the frame, decoders differ in what it means.
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

    /// Width and height once the picture is turned.
    pub(crate) fn turned_size(&self) -> (u32, u32) {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        match self.orientation {
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => (self.height, self.width),
            _ => (self.width, self.height),
        }
    }

    /// The picture, turned, and by what it is reduced: of the whole picture's size over that, black where nothing will be looked at. Nothing
    /// where the decoder fails.
    pub(crate) fn decode(&self, bytes: &[u8], need: &Need) -> Option<(DynamicImage, u32)> {
        let rows = self.stored_rows(need);
        // A baseline picture whose finer luma comes in a scan of its own is garbled by the decoder of the full size.
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

    /// How many stored rows, from the first, hold all that is needed.
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

    /// At full size by the decoder that `image` uses: equal to what `image` makes of it.
    fn full(&self, bytes: &[u8], rows: u32) -> Option<RgbImage> {
        // Where the first scan is not all, this decoder looks for the next one at the end of the picture alone, which must not be moved up.
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

    /// At a half, a quarter or an eighth of the size, from the low frequencies alone; or at the full one, by another decoder.
    fn reduced(&self, bytes: &[u8], rows: u32, factor: u32) -> Option<(RgbImage, u32)> {
        let scans = bytes.get(self.scan..)?.windows(2).filter(|pair| *pair == [0xff, 0xda]).count();
        if scans > if self.frame.progressive { MOST_SCANS } else { MOST_BASELINE_SCANS } {
            return None;
        }
        // Where rows are left over, so are restart marks, which this decoder refuses.
        let (bytes, height) = if self.restarts { (Cow::Borrowed(bytes), self.height) } else { self.cut(bytes, rows, factor) };
        let mut decoder = jpeg_decoder::Decoder::new(&*bytes);
        let colours = match (self.frame.components, self.rgb) {
            (1, _) => ColorTransform::Grayscale,
            (_, true) => ColorTransform::RGB,
            (_, false) => ColorTransform::YCbCr,
        };
        decoder.set_color_transform(colours);
        let asked = (self.width.div_ceil(factor), height.div_ceil(factor));
        let given = decoder.scale(asked.0 as u16, asked.1 as u16).ok()?;
        if (given.0 as u32, given.1 as u32) != asked {
            return None; // pictures of a few pixels
        }
        let mut pixels = decoder.decode().ok()?;
        if self.frame.components == 1 {
            pixels = pixels.into_iter().flat_map(|value| [value; 3]).collect();
        }
        let (width, height) = (asked.0, self.height.div_ceil(factor));
        pixels.resize(width as usize * height as usize * 3, 0);
        RgbImage::from_raw(width, height, pixels).map(|image| (image, factor))
    }

    /// The file with a lower height in its header, so that decoders stop early, and that height. The chroma of the last row is mixed with that
    /// of the row below it, so that one more than the needed ones is kept.
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
    /// Of a frame's segment that begins at `start`.
    fn read(marker: u8, segment: &[u8], start: usize) -> Option<Frame> {
        let &[8, _, _, _, _, components, ref rest @ ..] = segment else { return None };
        // Of each component its name, how often it is sampled (across, down) in four bits each, and its table.
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

/// Width and height of a frame's segment.
fn size(segment: &[u8]) -> Option<(u32, u32)> {
    let &[_, high, low, wide, narrow, ..] = segment else { return None };
    let (width, height) = (u16::from_be_bytes([wide, narrow]) as u32, u16::from_be_bytes([high, low]) as u32);
    (width > 0 && height > 0).then_some((width, height))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A start of image and segments, up to the data of the first scan.
    fn file(segments: &[(u8, &[u8])]) -> Vec<u8> {
        let segment = |(marker, content): &(u8, &[u8])| [&[0xff, *marker][..], &(content.len() as u16 + 2).to_be_bytes(), content].concat();
        [vec![0xff, 0xd8], segments.iter().flat_map(segment).collect()].concat()
    }

    const FRAME: (u8, &[u8]) = (0xc0, &[8, 0, 20, 1, 44, 3, 1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0]);
    const SCAN: (u8, &[u8]) = (0xda, &[3, 1, 0, 2, 0, 3, 0, 0, 63, 0]);
    const EXIF: (u8, &[u8]) = (0xe1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0");

    #[test]
    fn a_header_says_what_is_stored() {
        let header = Header::read(&file(&[FRAME, SCAN])).unwrap();
        assert_eq!((header.width, header.height, header.orientation), (300, 20, Orientation::NoTransforms));
        assert!(header.whole_scan && !header.restarts && !header.rgb && !header.frame.progressive);
        assert_eq!((header.frame.height_at, header.frame.block_rows), (7, 16));

        let scan = (0xda, &[1, 1, 0, 0, 63, 0][..]);
        let adobe = (0xee, &b"Adobe\0\x64\0\0\0\0\0"[..]);
        let filled = [&file(&[EXIF, adobe, (0xdd, &[0, 4])])[..], &[0xff, 0xff], &file(&[(0xc2, FRAME.1), scan])[2..]].concat();
        let header = Header::read(&filled).unwrap();
        assert_eq!((header.turned_size(), header.orientation), ((20, 300), Orientation::Rotate90));
        assert!(!header.whole_scan && header.restarts && header.rgb && header.frame.progressive);
    }

    #[test]
    fn what_is_unusual_is_left_alone() {
        let with = |place: usize, value: u8| {
            let mut content = FRAME.1.to_vec();
            content[place] = value;
            Header::read(&file(&[(0xc0, &content), SCAN])).is_some()
        };
        assert!(with(7, 0x41) && with(7, 0x12));
        // Twelve bits, two components, chroma as fine as luma, four rows of luma.
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
    fn a_cut_keeps_a_row_more_than_is_needed_in_whole_blocks() {
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
