//! Damaged and hostile files: each is an error of one line that names the file, never a panic or a
//! huge allocation.

use image::{DynamicImage, ImageFormat, RgbImage};
use mimco_data::augment::{RandomOperation, RandomView};
use mimco_data::check::check;
use mimco_data::decode::{MAX_PIXELS, Need, decode, decode_region, probe};
use mimco_data::loader::{Loader, LoaderOptions, ViewSpec};
use mimco_data::{DataError, Dataset, Filter, Rgb};
use std::io::Cursor;

fn photo(format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * 4) as u8, (y * 5) as u8, (x * y % 256) as u8]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(image).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn reason(result: Result<Rgb, DataError>) -> String {
    let message = result.err().unwrap().to_string();
    assert!(message.starts_with("x.jpg: ") && !message.contains('\n'), "{message:?}");
    message
}

/// Random crops with flips.
fn random_views() -> ViewSpec {
    let operations = vec![RandomOperation::Flip { probability: 0.5 }];
    ViewSpec::Random(vec![RandomView { crop_scale: (0.67, 1.0), filter: Filter::Bicubic, operations }])
}

/// Returns a PNG chunk: length, type, content, CRC-32.
fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(content);
    let length = (content.len() as u32).to_be_bytes();
    [&length[..], kind, content, &crc.sum().to_be_bytes()].concat()
}

#[test]
fn a_png_header_of_four_hundred_million_pixels_is_an_error() {
    let side = 20_000u32.to_be_bytes();
    let header = [&side[..], &side, &[8, 2, 0, 0, 0]].concat(); // 8 bits, RGB
    let png = [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &[0x78, 0x9c]), chunk(b"IEND", &[])].concat();
    let message = reason(decode(&png, "x.jpg", MAX_PIXELS));
    assert!(message.contains("20000x20000") && message.contains("data.max_pixels"), "{message}");
    assert!(reason(decode(&photo(ImageFormat::Png), "x.jpg", 64 * 48 - 1)).contains("data.max_pixels"));
    assert!(decode(&photo(ImageFormat::Png), "x.jpg", 64 * 48).is_ok());
}

#[test]
fn a_gif_or_ppm_header_of_four_billion_pixels_is_an_error() {
    let gif = [b"GIF89a", &[0xff; 4][..], &[0, 0, 0], b",", &[0; 4], &[0xff; 4], &[0, 2, 1, 0x2c, 0, b';']].concat();
    for (file, size) in [(gif, "65535x65535"), (b"P6\n65000 65000\n255\n".to_vec(), "65000x65000")] {
        let message = reason(decode(&file, "x.jpg", MAX_PIXELS));
        assert!(message.contains(size) && message.contains("data.max_pixels"), "{message}");
    }
}

#[test]
fn a_jpeg_truncated_anywhere_is_an_error() {
    let whole = photo(ImageFormat::Jpeg);
    for end in (1..whole.len()).step_by(7) {
        reason(decode(&whole[..end], "x.jpg", MAX_PIXELS));
    }
}

#[test]
fn the_end_of_a_thumbnail_is_not_the_end_of_its_photo() {
    // Cameras store a small JPEG in a segment before the image.
    let whole = photo(ImageFormat::Jpeg);
    let thumbnail = [0xff, 0xed, 0, 8, 0xff, 0xd8, 0, 0, 0xff, 0xd9]; // a segment of 8 bytes: length, start and end of an image
    let with_thumbnail = [&whole[..2], &thumbnail, &whole[2..]].concat();
    assert_eq!(decode(&with_thumbnail, "x.jpg", MAX_PIXELS).unwrap(), decode(&whole, "x.jpg", MAX_PIXELS).unwrap());
    assert!(reason(decode(&with_thumbnail[..with_thumbnail.len() * 3 / 4], "x.jpg", MAX_PIXELS)).contains("truncated"));
    let appended = [&whole[..], b"data of the camera's vendor"].concat();
    assert!(decode(&appended, "x.jpg", MAX_PIXELS).is_ok());
}

#[test]
fn other_truncated_formats_are_errors() {
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::Gif, ImageFormat::Pnm] {
        let whole = photo(format);
        assert!(decode(&whole, "x.jpg", MAX_PIXELS).is_ok());
        for end in [1, 9, 30, whole.len() / 2] {
            reason(decode(&whole[..end], "x.jpg", MAX_PIXELS));
        }
    }
}

/// Asserts that all ways of decoding give an image of the same size within the limit, or an error
/// of one line.
fn survives(bytes: &[u8]) {
    let limit = 100_000;
    let size = probe(bytes, "x.jpg");
    let need = |factor| Need { columns: 1..9, rows: 3..11, factor };
    let decoded = [decode(bytes, "x.jpg", limit).map(|image| (image, 1)), decode_region(bytes, "x.jpg", limit, &need(1))];
    for result in decoded.into_iter().chain([2, 8].map(|factor| decode_region(bytes, "x.jpg", limit, &need(factor)))) {
        match result {
            Ok((image, factor)) => {
                let (width, height) = *size.as_ref().unwrap();
                assert_eq!((image.width, image.height), (width.div_ceil(factor), height.div_ceil(factor)));
                assert_eq!(image.pixels.len(), (image.width * image.height * 3) as usize);
                assert!(width as u64 * height as u64 <= limit);
            }
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    }
}

/// Changes bytes at pseudorandom positions.
fn damage(whole: &[u8], trials: u64) {
    survives(whole);
    let mut number = 1u64;
    for _ in 0..trials {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut bytes = whole.to_vec();
        let at = (number >> 33) as usize % bytes.len();
        bytes[at] ^= (number >> 24) as u8 | 1;
        survives(&bytes);
    }
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/formats/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn damaged_jpegs_never_panic() {
    damage(&photo(ImageFormat::Jpeg), 1500);
    damage(&fixture("chroma_420.jpg"), 1500);
    damage(&fixture("gray.jpg"), 500);
    damage(&fixture("orientation_6.jpg"), 500);
}

#[test]
fn damaged_progressive_jpegs_never_panic() {
    damage(&fixture("progressive.jpg"), 1500);
    damage(&fixture("cmyk.jpg"), 500);
}

#[test]
fn other_damaged_formats_never_panic() {
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::Gif, ImageFormat::Pnm] {
        damage(&photo(format), 700);
    }
    for name in ["lossy.webp", "palette.tif", "palette.png"] {
        damage(&fixture(name), 400);
    }
}

/// Returns the segments of a JPEG as (marker, range of the content).
fn segments(jpeg: &[u8]) -> Vec<(u8, std::ops::Range<usize>)> {
    let (mut at, mut all) = (2, Vec::new());
    while jpeg[at + 1] != 0xda {
        let end = at + 2 + u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]) as usize;
        all.push((jpeg[at + 1], at + 4..end));
        at = end;
    }
    all
}

#[test]
fn wrong_huffman_tables_never_panic() {
    for name in ["chroma_420.jpg", "progressive.jpg", "gray.jpg"] {
        let whole = fixture(name);
        let tables: Vec<_> = segments(&whole).into_iter().filter(|(marker, _)| *marker == 0xc4).map(|(_, content)| content).collect();
        assert!(tables.len() >= 2);
        for (i, table) in tables.iter().enumerate() {
            // With another class or destination, reversed values, constant bytes, another table's
            // content, and missing.
            for class in [0x00, 0x01, 0x10, 0x11, 0x13, 0x7f] {
                let mut bytes = whole.clone();
                bytes[table.start] = class;
                survives(&bytes);
            }
            let mut bytes = whole.clone();
            bytes[table.start + 17..table.end].reverse();
            survives(&bytes);
            for value in [0x00, 0x01, 0xff] {
                bytes[table.start + 1..table.end].fill(value);
                survives(&bytes);
            }
            let other = &tables[(i + 1) % tables.len()];
            survives(&[&whole[..table.start], &whole[other.clone()], &whole[table.end..]].concat());
            survives(&[&whole[..table.start - 4], &whole[table.end..]].concat());
        }
    }
}

#[test]
fn huge_headers_are_errors_and_odd_ones_do_not_panic() {
    for name in ["chroma_420.jpg", "progressive.jpg"] {
        let whole = fixture(name);
        let frame = segments(&whole).into_iter().find(|(marker, _)| matches!(marker, 0xc0 | 0xc2)).unwrap().1.start;
        for (height, width) in [(0xffffu16, 0xffffu16), (0xffff, 3000), (0, 24), (24, 0), (1, 1), (1, 0xffff), (0xffff, 1)] {
            let mut bytes = whole.clone();
            bytes[frame + 1..frame + 3].copy_from_slice(&height.to_be_bytes());
            bytes[frame + 3..frame + 5].copy_from_slice(&width.to_be_bytes());
            survives(&bytes);
            if height as u64 * width as u64 > MAX_PIXELS {
                assert!(reason(decode(&bytes, "x.jpg", MAX_PIXELS)).contains("data.max_pixels"));
            }
        }
        // Twelve bits, other codings, other numbers of components, other sampling.
        for (offset, values) in [(0, &[12u8, 16, 0][..]), (5, &[0, 1, 2, 4, 255]), (7, &[0, 0x14, 0x44, 0xf1])] {
            for value in values {
                let mut bytes = whole.clone();
                bytes[frame + offset] = *value;
                survives(&bytes);
            }
        }
        for marker in [0xc1, 0xc3, 0xc5, 0xc9, 0xca, 0xcb] {
            let mut bytes = whole.clone();
            bytes[frame - 3] = marker;
            survives(&bytes);
        }
    }
    for side in [0x7fff_ffffu32, 0x8000_0000, 0xffff_ffff] {
        let header = [&side.to_be_bytes()[..], &side.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        survives(&[b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &[0x78, 0x9c]), chunk(b"IEND", &[])].concat());
    }
    survives(b"GIF89a\xff\xff\xff\xff\x80\0\0");
    survives(b"");
    survives(&[0xff; 5000]);
    survives(&[&[0xff, 0xd8][..], &[0xff; 5000]].concat());
}

#[test]
fn truncated_jpegs_are_errors_even_if_only_the_top_is_needed() {
    let whole = fixture("chroma_420.jpg");
    for end in [whole.len() / 2, whole.len() - 2, whole.len() - 1] {
        for factor in [1, 8] {
            let need = Need { columns: 0..9, rows: 0..1, factor };
            assert!(reason(decode_region(&whole[..end], "x.jpg", MAX_PIXELS, &need).map(|part| part.0)).contains("truncated"));
        }
    }
}

#[test]
fn unreadable_files_are_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("a.jpg"), photo(ImageFormat::Jpeg)).unwrap();
    std::fs::write(at("b.png"), photo(ImageFormat::Png)).unwrap();
    std::fs::write(at("c.jpg"), &photo(ImageFormat::Jpeg)[..900]).unwrap();
    std::fs::write(at("d.jpg"), "text renamed").unwrap();
    std::fs::write(at("e.jpg"), "").unwrap();
    std::fs::write(at("list.txt"), "a.jpg\nb.png\nc.jpg\nd.jpg\ne.jpg\ngone.jpg\n").unwrap();
    let set = Dataset::open_unlabelled(&at("list.txt")).unwrap();

    let report = check(&set, 2, |_| {});
    let names: Vec<&str> = report.broken.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((report.images, names), (6, vec!["c.jpg", "d.jpg", "e.jpg", "gone.jpg"]));
    assert!(report.broken[3].1.contains("cannot be read"), "{:?}", report.broken);

    let options = |batch_size| LoaderOptions { batch_size, seed: 1, workers: 2, queue: 2, image_size: 16, max_broken: 0.01 };
    let training = Loader::new(set.clone(), random_views(), options(3));
    let used: Vec<u32> = training.epoch(0, 0).flat_map(|batch| batch.unwrap().indices).collect();
    assert!(used.len() == 6 && used.iter().all(|i| *i < 2), "broken ones are replaced: {used:?}");
    let evaluation = Loader::new(set, ViewSpec::Evaluation, options(4));
    let rows: Vec<(Vec<u32>, usize)> = evaluation.epoch(0, 0).map(|b| b.unwrap()).map(|b| (b.indices, b.views[0].len())).collect();
    assert_eq!(rows, [(vec![0, 1], 2 * 3 * 16 * 16), (vec![], 0)]);
    assert_eq!(evaluation.broken().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["c.jpg", "d.jpg", "e.jpg", "gone.jpg"]);
}

#[test]
fn a_dataset_without_a_readable_image_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    (0..6).for_each(|i| std::fs::write(folder.path().join(format!("{i}.jpg")), "text").unwrap());
    let options = LoaderOptions { batch_size: 1, seed: 1, workers: 2, queue: 2, image_size: 4, max_broken: 0.01 };
    for pipeline in [random_views(), ViewSpec::Evaluation] {
        let loader = Loader::new(Dataset::open_unlabelled(folder.path()).unwrap(), pipeline, options.clone());
        // Twice: the second time all images are known to be broken. Dropping the epoch waits for
        // its workers.
        for epoch in 0..2 {
            let error = loader.epoch(epoch, 0).find_map(|batch| batch.err()).unwrap().to_string();
            assert!(error.contains("none of the 6 images") && !error.contains('\n'), "{error}");
        }
    }
}

#[test]
fn a_single_image_of_a_single_pixel_trains_and_evaluates() {
    let folder = tempfile::tempdir().unwrap();
    RgbImage::from_pixel(1, 1, image::Rgb([255, 51, 0])).save(folder.path().join("one.png")).unwrap();
    let options = LoaderOptions { batch_size: 1, seed: 1, workers: 3, queue: 2, image_size: 4, max_broken: 0.01 };
    for pipeline in [random_views(), ViewSpec::Evaluation] {
        let loader = Loader::new(Dataset::open_unlabelled(folder.path()).unwrap(), pipeline, options.clone());
        let batches: Vec<_> = loader.epoch(0, 0).map(|b| b.unwrap()).collect();
        assert_eq!(batches.len(), 1);
        assert!(batches[0].views[0].chunks(16).zip([1.0, 0.2, 0.0]).all(|(plane, value)| plane.iter().all(|v| (v - value).abs() < 1e-6)));
    }
}

#[cfg(unix)]
#[test]
fn loops_of_links_end() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("a/b");
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::write(inner.join("1.jpg"), photo(ImageFormat::Jpeg)).unwrap();
    std::os::unix::fs::symlink(folder.path(), inner.join("back")).unwrap();
    std::os::unix::fs::symlink("nowhere", inner.join("2.jpg")).unwrap();
    let set = Dataset::open_unlabelled(folder.path()).unwrap();
    assert_eq!((0..set.len()).map(|i| set.name(i)).collect::<Vec<_>>(), ["a/b/1.jpg", "a/b/2.jpg"]);
    assert!(set.load(0).is_ok() && set.load(1).is_err());
}
