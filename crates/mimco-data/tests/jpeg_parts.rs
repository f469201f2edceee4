//! Partially decoded JPEGs: compared with the `image` crate at full size, and with Pillow at
//! reduced sizes.

use image::{DynamicImage, ImageDecoder, ImageReader};
use mimco_data::Rgb;
use mimco_data::decode::{MAX_PIXELS, Need, decode, decode_region, probe};
use std::io::Cursor;
use std::ops::Range;
use std::path::PathBuf;

/// Decodes a file with the `image` crate.
fn reference(bytes: &[u8]) -> Rgb {
    let mut decoder = ImageReader::new(Cursor::new(bytes)).with_guessed_format().unwrap().into_decoder().unwrap();
    let orientation = decoder.orientation().unwrap();
    let mut image = DynamicImage::from_decoder(decoder).unwrap();
    image.apply_orientation(orientation);
    let rgb = image.into_rgb8();
    Rgb { width: rgb.width(), height: rgb.height(), pixels: rgb.into_raw() }
}

fn part(bytes: &[u8], columns: Range<u32>, rows: Range<u32>, factor: u32) -> (Rgb, u32) {
    decode_region(bytes, "x", MAX_PIXELS, &Need { columns, rows, factor }).unwrap()
}

fn row(image: &Rgb, y: u32, columns: Range<u32>) -> &[u8] {
    let at = |x: u32| (y as usize * image.width as usize + x as usize) * 3;
    &image.pixels[at(columns.start)..at(columns.end)]
}

/// Pseudorandom numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Bits of a scan, from the highest bit of each byte to the lowest.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    byte: u8,
    count: u32,
}

impl Bits {
    fn push(&mut self, value: u32, bits: u32) {
        for i in (0..bits).rev() {
            self.byte = self.byte << 1 | (value >> i & 1) as u8;
            self.count += 1;
            if self.count == 8 {
                self.bytes.push(self.byte);
                if self.byte == 0xff {
                    self.bytes.push(0);
                }
                (self.byte, self.count) = (0, 0);
            }
        }
    }

    /// Appends a coefficient of `bits` bits; negative ones are stored minus one.
    fn push_number(&mut self, value: i32, bits: u32) {
        self.push((if value < 0 { value - 1 } else { value }) as u32, bits);
    }

    fn flush(&mut self) {
        while self.count > 0 {
            self.push(1, 1);
        }
    }
}

/// The layout of a file with random coefficients.
#[derive(Clone, Copy, Debug)]
struct Kind {
    components: u8,
    /// Horizontal and vertical samples of the first component per sample of the others.
    sampled: (u8, u8),
    /// Units between restart markers; 0 for none.
    restart: u16,
    orientation: u8,
    /// Whether each component has its own scan; they then have equal sampling.
    separate: bool,
}

const PHOTO: Kind = Kind { components: 3, sampled: (2, 2), restart: 0, orientation: 1, separate: false };

fn segment(marker: u8, content: &[u8]) -> Vec<u8> {
    [&[0xff, marker][..], &(content.len() as u16 + 2).to_be_bytes(), content].concat()
}

/// Returns a baseline JPEG of random coefficients.
fn random_jpeg(width: u16, height: u16, kind: Kind, seed: u64) -> Vec<u8> {
    let (sampled, restart, mut numbers) = (kind.sampled, kind.restart as u32, Numbers(seed));
    let components: Vec<u8> = (0..kind.components).collect();
    // A directory of one entry: tag, type short, count 1.
    let entry = [0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, kind.orientation, 0, 0, 0, 0, 0, 0];
    let mut frame = [&[8][..], &height.to_be_bytes(), &width.to_be_bytes(), &[kind.components]].concat();
    components.iter().for_each(|c| frame.extend([c + 1, if *c == 0 { sampled.0 << 4 | sampled.1 } else { 0x11 }, 0]));
    let mut file = [
        vec![0xff, 0xd8],
        segment(0xe1, &[&b"Exif\0\0MM\0*\0\0\0\x08\0\x01"[..], &entry].concat()),
        segment(0xdb, &[&[0][..], &[8; 64]].concat()),
        segment(0xc0, &frame),
        // Differences of 0..=7 bits: seven codes of three bits, one of four. Then values of 1..=3
        // bits after 0..=3 zeros: thirteen codes of four bits, the first for the end of a block.
        segment(0xc4, &[0, 0, 0, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]),
        segment(
            0xc4,
            &[
                &[0x10, 0, 0, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
                &[0, 0x01, 0x02, 0x03, 0x11, 0x12, 0x13, 0x21, 0x22, 0x23, 0x31, 0x32, 0x33],
            ]
            .concat(),
        ),
        segment(0xdd, &kind.restart.to_be_bytes()),
    ]
    .concat();

    for scan in components.chunks(if kind.separate { 1 } else { components.len() }) {
        let named: Vec<u8> = scan.iter().flat_map(|c| [c + 1, 0]).collect();
        file.extend(segment(0xda, &[&[scan.len() as u8][..], &named, &[0, 63, 0]].concat()));
        let mut bits = Bits::default();
        let mut last = [0i32; 3];
        let units = |side: u16, sampled: u8| side.div_ceil(8 * sampled as u16) as u32;
        for unit in 0..units(width, sampled.0) * units(height, sampled.1) {
            if restart > 0 && unit > 0 && unit % restart == 0 {
                bits.flush();
                bits.bytes.extend([0xff, 0xd0 + ((unit / restart - 1) % 8) as u8]);
                last = [0; 3];
            }
            for &component in scan {
                for _ in 0..if component == 0 { sampled.0 * sampled.1 } else { 1 } {
                    random_block(&mut bits, &mut last[component as usize], &mut numbers);
                }
            }
        }
        bits.flush();
        file.extend(bits.bytes);
    }
    [file, vec![0xff, 0xd9]].concat()
}

fn random_block(bits: &mut Bits, last: &mut i32, numbers: &mut Numbers) {
    let value = numbers.below(120) as i32 - 60;
    let difference = value - *last;
    *last = value;
    let size = 32 - difference.unsigned_abs().leading_zeros();
    if size < 7 {
        bits.push(size, 3)
    } else {
        bits.push(14, 4)
    }
    bits.push_number(difference, size);
    let mut at = 1;
    while numbers.below(5) > 0 {
        let (zeros, size) = (numbers.below(4) as u32, 1 + numbers.below(3) as u32);
        at += zeros + 1;
        if at > 63 {
            break;
        }
        bits.push(3 * zeros + size, 4);
        let magnitude = (1 << (size - 1)) + numbers.below(1 << (size - 1)) as i32;
        bits.push_number(if numbers.below(2) == 0 { magnitude } else { -magnitude }, size);
    }
    bits.push(0, 4);
}

/// For every number of rows, every usual sampling, with and without restart markers.
#[test]
fn top_rows_are_those_of_the_whole_image() {
    let mut seed = 0;
    let samplings = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)].map(|sampled| (3, sampled, false));
    for (components, sampled, separate) in [(1, (1, 1), false), (3, (1, 1), true)].into_iter().chain(samplings) {
        for restart in [0, 1, 5] {
            for (width, height) in [(1, 1), (7, 9), (16, 16), (17, 33), (40, 70)] {
                seed += 1;
                let kind = Kind { components, sampled, restart, separate, ..PHOTO };
                let bytes = random_jpeg(width, height, kind, seed);
                let whole = reference(&bytes);
                assert_eq!(decode(&bytes, "x", MAX_PIXELS).unwrap(), whole);
                for end in 1..=height as u32 {
                    let (image, factor) = part(&bytes, 0..u32::MAX, 0..end, 1);
                    assert_eq!((image.width, image.height, factor), (whole.width, whole.height, 1));
                    let top = end as usize * width as usize * 3;
                    assert!(image.pixels[..top] == whole.pixels[..top], "{kind:?} {width}x{height}, {end} rows");
                }
                // Rows that are not decoded are black.
                let (image, _) = part(&bytes, 0..u32::MAX, 0..1, 1);
                assert!(height < 70 || separate || image.pixels.iter().rev().take(30 * 3 * width as usize).all(|value| *value == 0));
            }
        }
    }
}

#[test]
fn rotated_images_have_the_needed_region() {
    for orientation in 1..=8 {
        for (seed, columns, rows) in [(1, 3..21, 40..52), (2, 0..9, 0..9), (3, 20..40, 2..12)] {
            let transposed = orientation > 4;
            let (width, height) = if transposed { (70, 41) } else { (41, 70) };
            let bytes = random_jpeg(width, height, Kind { orientation, ..PHOTO }, seed);
            let whole = reference(&bytes);
            assert_eq!(probe(&bytes, "x").unwrap(), (41, 70));
            let (image, factor) = part(&bytes, columns.clone(), rows.clone(), 1);
            assert_eq!((image.width, image.height, factor), (41, 70, 1));
            for y in rows.clone() {
                assert!(row(&image, y, columns.clone()) == row(&whole, y, columns.clone()), "orientation {orientation}, row {y}");
            }
            // At an eighth of the size, the center of the region is as in the whole image.
            let (eighth, factor) = part(&bytes, columns.clone(), rows.clone(), 8);
            assert_eq!((eighth.width, eighth.height, factor), (6, 9, 8));
            let all = part(&bytes, 0..41, 0..70, 8).0;
            let (x, y) = ((columns.start + columns.end) / 16, (rows.start + rows.end) / 16);
            assert_eq!(row(&eighth, y, x..x + 1), row(&all, y, x..x + 1), "orientation {orientation}");
        }
    }
}

fn fixtures(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let jpegs = files.filter(|path| path.extension().is_some_and(|e| e == "jpg"));
    jpegs.map(|path| (path.with_extension("").to_string_lossy().into_owned(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn photos_of_all_kinds_are_decoded_as_by_the_image_crate() {
    for (name, bytes) in [fixtures("formats"), fixtures("reduced")].concat() {
        if name.ends_with("three_scans") {
            continue; // which `image` garbles
        }
        let whole = reference(&bytes);
        assert_eq!(decode(&bytes, "x", MAX_PIXELS).unwrap(), whole, "{name}");
        assert_eq!(probe(&bytes, "x").unwrap(), (whole.width, whole.height), "{name}");
        let (image, _) = part(&bytes, 0..5, 0..5, 1);
        (0..5).for_each(|y| assert_eq!(row(&image, y, 0..5), row(&whole, y, 0..5), "{name}"));
    }
}

/// Pillow averages pixels and interpolates chroma differently; this decoder drops high frequencies.
#[test]
fn reduced_images_are_close_to_pillows() {
    let files = fixtures("reduced");
    assert_eq!(files.len(), 7);
    for (name, bytes) in files {
        for factor in [2, 4, 8] {
            let pillows = decode(&std::fs::read(format!("{name}.{factor}.png")).unwrap(), "x", MAX_PIXELS).unwrap();
            let (ours, given) = part(&bytes, 0..75, 0..53, factor);
            assert_eq!((ours.width, ours.height, given), (pillows.width, pillows.height, factor));
            let away: Vec<u32> = ours.pixels.iter().zip(&pillows.pixels).map(|(a, b)| a.abs_diff(*b) as u32).collect();
            let mean = away.iter().sum::<u32>() as f64 / away.len() as f64;
            let most = away.iter().max().unwrap();
            let full_chroma = ["gray", "444", "rgb"].iter().any(|kind| name.ends_with(kind));
            assert!(mean < 1.0 && *most <= 4 || !full_chroma && mean < 4.0 && *most <= 16, "{name} {factor}: {mean} {most}");
            // The top rows alone are equal.
            let (top, _) = part(&bytes, 0..75, 0..20, factor);
            let values = 20 / factor as usize * ours.width as usize * 3;
            assert!(top.pixels[..values] == ours.pixels[..values], "{name} {factor}");
        }
    }
}

#[test]
fn other_factors_are_rounded_down() {
    let bytes = random_jpeg(64, 64, PHOTO, 1);
    for (allowed, given) in [(0, 1), (1, 1), (3, 2), (7, 4), (100, 8)] {
        let (image, factor) = part(&bytes, 0..64, 0..64, allowed);
        assert_eq!((image.width, factor), (64 / given, given));
    }
}
