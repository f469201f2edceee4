//! The images of a run.

use super::run_folder::RunFolder;
use crate::Error;
use crate::settings::Data;
use mimco_data::Dataset;
use std::path::Path;

/// Images to train on and to validate with.
pub struct Images {
    /// Training images.
    pub train: Dataset,
    /// Labelled validation images.
    pub val: Option<Dataset>,
}

/// Opens the images of a run. Labels are used with `val`, or where `data` holds class folders in
/// `train/` and `val/` or `validation/`. `out` is the run folder: a listing there, from an earlier run
/// of the same command, saves the search for many images.
///
/// # Errors
/// A path that does not exist, or holds fewer than two images.
pub fn open_images(data: &Path, val: Option<&Path>, out: &Path, settings: &Data) -> Result<Images, Error> {
    let listing = RunFolder::listing(out);
    let images = match val {
        Some(val) => {
            let train = Dataset::open(data, true, Some(&listing))?;
            let val = Dataset::open_labelled(val)?.with_classes(train.classes())?;
            Images { train, val: Some(val) }
        }
        None => match Dataset::splits(data, Some(&listing)) {
            Some((train, val)) => Images { train, val: Some(val) },
            None => Images { train: Dataset::open(data, false, Some(&listing))?, val: None },
        },
    };
    if images.train.len() < 2 {
        return Err(Error::Training(format!("{} holds one image; training needs at least two, better thousands", data.display())));
    }
    let limited = |set: Dataset| set.with_max_pixels(settings.max_pixels).with_window(settings.window_mib.saturating_mul(1 << 20));
    Ok(Images { train: limited(images.train), val: images.val.map(limited) })
}
