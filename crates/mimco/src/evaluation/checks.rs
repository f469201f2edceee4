//! What every comparison of a training set and a validation set asks of them.

use super::features::Features;
use crate::Error;

/// Sets that are not empty, of one width, finite, with a label below `classes` for each row.
pub(super) fn check_sets(train: &Features, train_labels: &[u32], val: &Features, val_labels: &[u32], classes: usize) -> Result<(), Error> {
    for (set, features, labels) in [("training", train, train_labels), ("validation", val, val_labels)] {
        if features.rows() == 0 {
            return Err(Error::Setting(format!("the {set} set holds no readable image; give a folder of class folders with images")));
        }
        if labels.len() != features.rows() {
            return Err(Error::Setting(format!(
                "the {set} set has {} features but {} labels; give one label for each feature",
                features.rows(),
                labels.len()
            )));
        }
        if let Some(label) = labels.iter().find(|&&l| l as usize >= classes) {
            return Err(Error::Setting(format!(
                "the {set} set has class {label}, but there are {classes} classes; give both sets the same class folders"
            )));
        }
        if !features.data().iter().all(|v| v.is_finite()) {
            return Err(Error::Training(format!(
                "features of the {set} set are not finite; the weights are damaged or their training diverged: use an earlier checkpoint"
            )));
        }
    }
    if train.width() != val.width() {
        return Err(Error::Setting(format!(
            "training features are {} wide, validation features {}; compute both with one backbone",
            train.width(),
            val.width()
        )));
    }
    Ok(())
}

/// Share of predictions that are right, in percent.
pub(super) fn percent_right(predicted: &[u32], labels: &[u32]) -> f64 {
    let right = predicted.iter().zip(labels).filter(|(p, l)| p == l).count();
    100.0 * right as f64 / labels.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_that_cannot_be_compared_are_told_apart() {
        let good = Features::new(2, vec![0.0, 1.0, 1.0, 0.0]);
        let says = |train: &Features, labels: &[u32], classes, word: &str| {
            let error = check_sets(train, labels, &good, &[0, 1], classes).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        };
        assert!(check_sets(&good, &[0, 1], &good, &[0, 1], 2).is_ok());
        says(&Features::new(2, vec![]), &[], 2, "no readable image");
        says(&good, &[0], 2, "1 labels");
        says(&good, &[0, 1], 1, "class folders");
        says(&Features::new(1, vec![0.0, 1.0]), &[0, 1], 2, "one backbone");
        says(&Features::new(2, vec![0.0, f32::NAN]), &[0], 2, "not finite");
    }
}
