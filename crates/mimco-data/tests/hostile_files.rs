//! Files that are not what they say: each is an error of one line that names the file, never a panic or a flood of memory.

use image::{DynamicImage, ImageFormat, RgbImage};
use mimco_data::augment::MimAugment;
use mimco_data::check::check;
use mimco_data::decode::{MAX_PIXELS, decode};
use mimco_data::loader::{Loader, LoaderOptions};
use mimco_data::pipeline::Pipeline;
use mimco_data::{DataError, Dataset};
use std::io::Cursor;

fn photo(format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * 4) as u8, (y * 5) as u8, (x * y % 256) as u8]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(image).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn reason(result: Result<mimco_data::Rgb, DataError>) -> String {
    let message = result.err().unwrap().to_string();
    assert!(message.starts_with("x.jpg: ") && !message.contains('\n'), "{message:?}");
    message
}

/// A PNG chunk: length, kind, content, CRC-32.
fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(content);
    let length = (content.len() as u32).to_be_bytes();
    [&length[..], kind, content, &crc.sum().to_be_bytes()].concat()
}

#[test]
fn a_png_header_of_four_hundred_million_pixels_is_refused() {
    let side = 20_000u32.to_be_bytes();
    let header = [&side[..], &side, &[8, 2, 0, 0, 0]].concat(); // 8 bits, RGB
    let png = [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &[0x78, 0x9c]), chunk(b"IEND", &[])].concat();
    let message = reason(decode(&png, "x.jpg", MAX_PIXELS));
    assert!(message.contains("20000x20000") && message.contains("data.max_pixels"), "{message}");
    assert!(reason(decode(&photo(ImageFormat::Png), "x.jpg", 64 * 48 - 1)).contains("data.max_pixels"));
    assert!(decode(&photo(ImageFormat::Png), "x.jpg", 64 * 48).is_ok());
}

#[test]
fn a_jpeg_cut_anywhere_is_an_error() {
    let whole = photo(ImageFormat::Jpeg);
    for end in (1..whole.len()).step_by(7) {
        reason(decode(&whole[..end], "x.jpg", MAX_PIXELS));
    }
}

#[test]
fn the_end_of_a_thumbnail_is_not_the_end_of_its_photo() {
    // Cameras put a whole small JPEG into a segment before the picture.
    let whole = photo(ImageFormat::Jpeg);
    let thumbnail = [0xff, 0xed, 0, 8, 0xff, 0xd8, 0, 0, 0xff, 0xd9]; // a segment of 8 bytes: length, start and end of an image
    let with_thumbnail = [&whole[..2], &thumbnail, &whole[2..]].concat();
    assert_eq!(decode(&with_thumbnail, "x.jpg", MAX_PIXELS).unwrap(), decode(&whole, "x.jpg", MAX_PIXELS).unwrap());
    assert!(reason(decode(&with_thumbnail[..with_thumbnail.len() * 3 / 4], "x.jpg", MAX_PIXELS)).contains("cut short"));
    let appended = [&whole[..], b"data of the camera's maker"].concat();
    assert!(decode(&appended, "x.jpg", MAX_PIXELS).is_ok());
}

#[test]
fn other_formats_cut_in_half_are_errors() {
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff] {
        let whole = photo(format);
        assert!(decode(&whole, "x.jpg", MAX_PIXELS).is_ok());
        for end in [1, 9, 30, whole.len() / 2] {
            reason(decode(&whole[..end], "x.jpg", MAX_PIXELS));
        }
    }
}

/// Bytes set to all sorts of values at all sorts of places: an image or an error, never a panic.
#[test]
fn damaged_bytes_never_panic() {
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff] {
        let whole = photo(format);
        for trial in 0..200 {
            let mut bytes = whole.clone();
            let head = bytes.len().min(200);
            bytes[trial * 37 % head] = (trial * 91 % 256) as u8;
            if let Err(error) = decode(&bytes, "x.jpg", 1_000_000) {
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("a.jpg"), photo(ImageFormat::Jpeg)).unwrap();
    std::fs::write(at("b.png"), photo(ImageFormat::Png)).unwrap();
    std::fs::write(at("c.jpg"), &photo(ImageFormat::Jpeg)[..900]).unwrap();
    std::fs::write(at("d.jpg"), "text renamed").unwrap();
    std::fs::write(at("e.jpg"), "").unwrap();
    std::fs::write(at("list.txt"), "a.jpg\nb.png\nc.jpg\nd.jpg\ne.jpg\ngone.jpg\n").unwrap();
    let set = Dataset::heap(&at("list.txt")).unwrap();

    let report = check(&set, 2, |_| {});
    let names: Vec<&str> = report.broken.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((report.images, names), (6, vec!["c.jpg", "d.jpg", "e.jpg", "gone.jpg"]));
    assert!(report.broken[3].1.contains("cannot be read"), "{:?}", report.broken);

    let options = |batch_size| LoaderOptions { batch_size, seed: 1, workers: 2, queue: 2, image_size: 16, max_broken: 0.01 };
    let training = Loader::new(set.clone(), Pipeline::Mim(MimAugment { crop_scale: (0.67, 1.0), flip: 0.5 }), options(3));
    let used: Vec<u32> = training.epoch(0, 0).flat_map(|batch| batch.unwrap().indices).collect();
    assert!(used.len() == 6 && used.iter().all(|i| *i < 2), "broken ones are replaced: {used:?}");
    let evaluation = Loader::new(set, Pipeline::Evaluation, options(4));
    let rows: Vec<(Vec<u32>, usize)> = evaluation.epoch(0, 0).map(|b| b.unwrap()).map(|b| (b.indices, b.views[0].len())).collect();
    assert_eq!(rows, [(vec![0, 1], 2 * 3 * 16 * 16), (vec![], 0)]);
    assert_eq!(evaluation.broken().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["c.jpg", "d.jpg", "e.jpg", "gone.jpg"]);
}

#[test]
fn a_set_of_which_nothing_can_be_read_is_an_error_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    (0..6).for_each(|i| std::fs::write(folder.path().join(format!("{i}.jpg")), "text").unwrap());
    let options = LoaderOptions { batch_size: 1, seed: 1, workers: 2, queue: 2, image_size: 4, max_broken: 0.01 };
    for pipeline in [Pipeline::Mim(MimAugment { crop_scale: (0.67, 1.0), flip: 0.5 }), Pipeline::Evaluation] {
        let loader = Loader::new(Dataset::heap(folder.path()).unwrap(), pipeline, options.clone());
        // Twice, as all are known to be broken the second time; dropping the epoch waits for its workers.
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
    for pipeline in [Pipeline::Mim(MimAugment { crop_scale: (0.67, 1.0), flip: 0.5 }), Pipeline::Evaluation] {
        let loader = Loader::new(Dataset::heap(folder.path()).unwrap(), pipeline, options.clone());
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
    let set = Dataset::heap(folder.path()).unwrap();
    assert_eq!((0..set.len()).map(|i| set.name(i)).collect::<Vec<_>>(), ["a/b/1.jpg", "a/b/2.jpg"]);
    assert!(set.load(0).is_ok() && set.load(1).is_err());
}
