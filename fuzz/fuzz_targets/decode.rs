//! Decodes any bytes as an image, as a whole and by regions. The seeds are small images of all formats.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mimco_data::decode::{Need, decode, decode_region, probe};

const MAX_PIXELS: u64 = 1 << 20;

fuzz_target!(
    init: {
        // Panics of decoders are caught and are not findings; those of this file end the run.
        std::panic::set_hook(Box::new(|panic| {
            if panic.location().is_some_and(|location| location.file().ends_with("fuzz_targets/decode.rs")) {
                eprintln!("{panic}");
            }
        }));
    },
    |bytes: &[u8]| {
        let size = probe(bytes, "a file");
        let whole = decode(bytes, "a file", MAX_PIXELS);
        if let Ok(whole) = &whole {
            let (width, height) = *size.as_ref().expect("a decoded image has a size");
            assert_eq!((whole.width, whole.height), (width, height));
            assert!(width as u64 * height as u64 <= MAX_PIXELS && whole.pixels.len() == width as usize * height as usize * 3);
        }
        for (columns, rows, factor) in [(0..40, 0..9, 1), (5..6, 20..33, 1), (0..40, 0..9, 2), (8..40, 3..30, 8)] {
            let need = Need { columns: columns.clone(), rows: rows.clone(), factor };
            let Ok((part, factor)) = decode_region(bytes, "a file", MAX_PIXELS, &need) else { continue };
            let (width, height) = *size.as_ref().expect("a decoded image has a size");
            assert_eq!((part.width, part.height), (width.div_ceil(factor), height.div_ceil(factor)));
            assert_eq!(part.pixels.len(), part.width as usize * part.height as usize * 3);
            let Ok(whole) = &whole else { continue };
            if factor == 1 {
                for y in rows.start.min(height)..rows.end.min(height) {
                    let at = |x: u32| (y as usize * width as usize + x.min(width) as usize) * 3;
                    let needed = at(columns.start)..at(columns.end);
                    assert!(part.pixels[needed.clone()] == whole.pixels[needed], "row {y}");
                }
            }
        }
    }
);
