//! Every operation of RandAugment equals timm's result on the same image at magnitude 9, byte for
//! byte; `tests/fixtures/make_fixtures.py` has the parameters.

use crate::augment::planes::Planes;
use crate::augment::rand_augment::OPERATIONS;
use crate::augment::resize::Filter;
use crate::augment::tests::pil_parity::{difference, fixture};
use crate::decode::Rgb;

/// timm's names of the operations, in its order.
const NAMES: [&str; 15] = [
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
];

#[test]
fn operations_are_timms() {
    let mut compared = 0;
    for (name, operation) in NAMES.iter().zip(OPERATIONS) {
        let source = fixture(if *name == "AutoContrast" { "contrast_0.6" } else { "source" });
        let geometric = ["Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"].contains(name);
        let filters = [(if geometric { "_bicubic" } else { "" }, Filter::Bicubic), ("_bilinear", Filter::Bilinear)];
        let directions = [("plus", 1.0), ("minus", -1.0)];
        let both = operation(0.9, 1.0) != operation(0.9, -1.0);
        for (direction, sign) in directions.into_iter().take(1 + both as usize) {
            for (suffix, filter) in filters.into_iter().take(1 + geometric as usize) {
                let file = format!("timm_{name}_{direction}{suffix}");
                let mut view = Planes::of(&source);
                operation(0.9, sign).apply(&mut view, filter, [124, 116, 104]);
                let [r, g, b] = view.channels();
                let pixels = r.iter().zip(&*g).zip(&*b).flat_map(|((r, g), b)| [*r, *g, *b]).collect();
                let made = Rgb { width: source.width, height: source.height, pixels };
                assert_eq!(difference(&made, &fixture(&file), 0), 0, "{file}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 34);
}
