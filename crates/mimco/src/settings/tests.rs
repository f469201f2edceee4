//! Tests of the settings as a whole.

use super::*;
use crate::methods::settings::mask::MaskSettings;

#[test]
fn what_is_written_is_read_back() {
    for method in MethodSettings::all() {
        let config = Config::defaults(method);
        assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
        config.check().unwrap();
    }
}

#[test]
fn the_learning_rate_is_scaled_by_all_images_of_an_update() {
    let mut config = Config::defaults(named("moco_v3"));
    (config.train.batch_size, config.train.accumulate) = (512, 2);
    assert!((config.learning_rate() - 6e-4).abs() < 1e-12); // MoCo v3's for a batch of 1,024
    assert_eq!(config.warmup_steps(1000), 100);
}

#[test]
fn differences_name_what_changes_the_result_alone() {
    let old = Config::defaults(named("mimco"));
    let mut new = old.clone();
    new.data.workers = Auto::Set(7);
    new.train.checkpoint_steps = 3;
    assert!(new.differences(&old).is_empty());
    new.optim.lr = 0.5;
    new.method = named("moco_v3");
    let differences = new.differences(&old);
    assert!(differences.iter().any(|d| d == "optim.lr is 0.5, was 0.0002"), "{differences:?}");
    assert!(differences.iter().any(|d| d.starts_with("mimco.head is unset, was linear")), "{differences:?}");
}

#[test]
fn impossible_settings_are_errors_that_name_the_range() {
    let check = |change: &dyn Fn(&mut Config)| {
        let mut config = Config::defaults(named("mimco"));
        change(&mut config);
        config.check().map_err(|e| e.to_string())
    };
    assert!(check(&|c| c.model.heads = Auto::Set(5)).unwrap_err().contains("model.heads=5"));
    assert!(check(&|c| c.model.image_size = 200).unwrap_err().contains("multiple"));
    assert!(check(&|c| c.model.patch_size = 0).unwrap_err().contains("multiple"));
    assert!(check(&|c| (c.model.image_size, c.model.patch_size) = (4096, 1)).unwrap_err().contains("larger patches"));
    assert!(check(&|c| c.optim.lr = f64::NAN).unwrap_err().contains("optim.lr"));
    assert!(check(&|c| c.train.batch_size = 1).unwrap_err().contains("at least 2"));
    let unit = check(&|c| set_mask(c, MaskSettings { unit: Auto::Set(3), ..MaskSettings::default() })).unwrap_err();
    assert!(unit.contains("mask.unit=3") && unit.contains("14"), "{unit}");
}

fn named(method: &str) -> MethodSettings {
    MethodSettings::named(method).unwrap()
}

fn set_mask(config: &mut Config, mask: MaskSettings) {
    let MethodSettings::Mimco(spec) = &mut config.method else { panic!("{:?} has no mask", config.method) };
    spec.mask = mask;
}
