//! Checks and accuracy shared by kNN and the linear probe.

use super::features::Features;
use crate::Error;

/// Checks that both sets have rows, the same width, finite features and one label below `classes`
/// per row.
///
/// # Errors
/// The first failed check.
pub(super) fn check_sets(train: &Features, train_labels: &[u32], val: &Features, val_labels: &[u32], classes: usize) -> Result<(), Error> {
    for (set, features, labels) in [("training", train, train_labels), ("validation", val, val_labels)] {
        if features.rows() == 0 {
            return Err(Error::Setting(format!("the {set} set has no readable image; use a folder of class folders with images")));
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
                "the {set} set has class {label}, but there are {classes} classes; use the same class folders in both sets"
            )));
        }
        if !features.data().iter().all(|v| v.is_finite()) {
            return Err(Error::Training(format!(
                "features of the {set} set are not finite: the weights are corrupt or the training diverged; use an earlier checkpoint"
            )));
        }
    }
    if train.width() != val.width() {
        return Err(Error::Setting(format!(
            "training features have width {}, validation features {}; compute both with the same backbone",
            train.width(),
            val.width()
        )));
    }
    Ok(())
}

/// Returns the percentage of correct predictions.
pub(super) fn percent_correct(predicted: &[u32], labels: &[u32]) -> f64 {
    let correct = predicted.iter().zip(labels).filter(|(p, l)| p == l).count();
    100.0 * correct as f64 / labels.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_that_cannot_be_compared_are_errors() {
        let good = Features::new(2, vec![0.0, 1.0, 1.0, 0.0]);
        let reports = |train: &Features, labels: &[u32], classes, word: &str| {
            let error = check_sets(train, labels, &good, &[0, 1], classes).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        };
        assert!(check_sets(&good, &[0, 1], &good, &[0, 1], 2).is_ok());
        reports(&Features::new(2, vec![]), &[], 2, "no readable image");
        reports(&good, &[0], 2, "1 labels");
        reports(&good, &[0, 1], 1, "class folders");
        reports(&Features::new(1, vec![0.0, 1.0]), &[0, 1], 2, "same backbone");
        reports(&Features::new(2, vec![0.0, f32::NAN]), &[0], 2, "not finite");
    }
}
