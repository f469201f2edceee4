//! Unusual image formats, compared with Pillow's decoding; `fixtures/make_fixtures.py` wrote both.

use mimco_data::decode::{MAX_PIXELS, decode};
use mimco_data::{Dataset, Rgb};
use std::path::PathBuf;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats")
}

fn both(name: &str) -> (Rgb, Rgb) {
    let read = |name: &str| {
        let bytes = std::fs::read(fixtures().join(name)).unwrap();
        decode(&bytes, name, MAX_PIXELS).unwrap_or_else(|e| panic!("{e}"))
    };
    (read(name), read(&format!("{name}.rgb.png")))
}

/// Asserts that the size is Pillow's and that no value differs by more than `tolerance`.
fn assert_near(name: &str, tolerance: u8) {
    let (ours, pillows) = both(name);
    assert_eq!((ours.width, ours.height), (pillows.width, pillows.height), "{name}");
    let away = ours.pixels.iter().zip(&pillows.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(away <= tolerance, "{name}: {away} of 255 away from Pillow's");
}

#[test]
fn lossless_kinds_are_exact() {
    for name in [
        "palette.png",
        "palette_transparent.png",
        "one_bit.png",
        "gray_alpha.png",
        "rgba.png",
        "gray16.png",
        "palette.bmp",
        "one_bit.bmp",
        "rgba.bmp",
        "rgba.webp",
        "lzw.tif",
        "packbits_gray.tif",
        "palette.tif",
        "one_bit.tif",
        "rgba.tif",
    ] {
        assert_near(name, 0);
    }
}

/// Animations are decoded to their first frame.
#[test]
fn first_frames_are_exact() {
    for name in ["animated.gif", "animated.webp", "animated.png", "animated_separate.png", "still.gif", "interlaced.gif", "transparent.gif"]
    {
        assert_near(name, 0);
    }
}

/// A first frame that covers only a part of the canvas: Pillow fills the rest with the palette's
/// first color, this crate with black.
#[test]
fn a_gif_frame_in_the_corner_of_its_canvas() {
    let (ours, pillows) = both("corner.gif");
    assert_eq!((ours.width, ours.height), (13, 10));
    for (i, (a, b)) in ours.pixels.chunks(3).zip(pillows.pixels.chunks(3)).enumerate() {
        let inside = (4..10).contains(&(i % 13)) && (3..8).contains(&(i / 13));
        assert_eq!(a, if inside { b } else { &[0; 3] }, "pixel {i}");
    }
}

#[test]
fn netpbm_kinds_are_exact() {
    for name in ["rgb.ppm", "gray.pgm", "one_bit.pnm", "text.ppm", "text_15.pgm", "binary_15.ppm", "binary_1000.ppm"] {
        assert_near(name, 0);
    }
}

/// The profile swaps red and green, so applying it would show.
#[test]
fn color_profiles_are_ignored() {
    assert_near("profile.png", 0);
    assert_near("profile.jpg", 4);
}

/// Decoders may round transforms and color conversions differently.
#[test]
fn lossy_kinds_are_near() {
    for name in ["gray.jpg", "progressive.jpg", "lossy.webp", "jpeg.tif", "cmyk.jpg", "cmyk.tif"] {
        assert_near(name, 4);
    }
    // Subsampled chroma: its interpolation is the decoder's choice.
    assert_near("chroma_420.jpg", 12);
    assert_near("three_scans.jpg", 4);
}

#[test]
fn orientation_is_applied_in_every_format_that_has_it() {
    for orientation in 1..=8 {
        assert_near(&format!("orientation_{orientation}.jpg"), 4);
    }
    for kind in ["png", "webp", "tif"] {
        assert_near(&format!("orientation_6.{kind}"), 0);
    }
    // Orientation 6 rotates a quarter clockwise, so red (top left) is at the top right.
    let (image, _) = both("orientation_6.jpg");
    assert_eq!((image.width, image.height), (16, 32));
    let last = &image.pixels[15 * 3..16 * 3];
    assert!(last[0] > 240 && last[1] < 15 && last[2] < 15, "{last:?}");
}

#[test]
fn a_folder_of_all_formats_has_no_broken_images() {
    let set = Dataset::open_unlabelled(&fixtures()).unwrap();
    let broken: Vec<String> = (0..set.len()).filter_map(|i| set.load(i).err()).map(|e| e.to_string()).collect();
    assert!(set.len() >= 60 && broken.is_empty(), "{broken:?}");
}
