//! `mimco knn`, `mimco linear`, `mimco embed`: features of a backbone and their accuracy.

use crate::args::{Backbone, Embed, Knn, Linear};
use crate::{output, status::Status};
use mimco::evaluation::features::{Features, extract, labels_of};
use mimco::evaluation::{embed as embedding, knn::knn_top1, linear::linear_top1};
use mimco::interop::backbone;
use mimco::models::overrides::BackboneOverrides;
use mimco_data::Dataset;
use std::path::Path;

/// Prints the accuracy of nearest neighbors.
pub fn knn(args: Knn) -> anyhow::Result<Status> {
    let sets = LabeledFeatures::open(&args.backbone, &args.train, &args.val)?;
    let top1 = knn_top1(&sets.train, &sets.train_labels, &sets.val, &sets.val_labels, sets.classes, args.k as usize, args.temperature)?;
    if args.backbone.common.json {
        output::json(&serde_json::json!({
            "knn_top1": top1, "k": args.k, "temperature": args.temperature, "train": sets.train.rows(), "val": sets.val.rows(),
        }))?;
    } else {
        output::line(&format!(
            "kNN accuracy {top1:.2} % ({} images, {} neighbors among {})",
            sets.val.rows(),
            args.k.min(sets.train.rows() as u32),
            sets.train.rows()
        ))?;
    }
    Ok(Status::Complete)
}

/// Prints the accuracy of a linear classifier.
pub fn linear(args: Linear) -> anyhow::Result<Status> {
    let sets = LabeledFeatures::open(&args.backbone, &args.train, &args.val)?;
    let result = linear_top1(&sets.train, &sets.train_labels, &sets.val, &sets.val_labels, sets.classes, args.seed)?;
    if args.backbone.common.json {
        output::json(&serde_json::json!({
            "linear_top1": result.top1, "regularisation": result.regularization, "train": sets.train.rows(), "val": sets.val.rows(),
        }))?;
    } else {
        output::line(&format!(
            "linear accuracy {:.2} % ({} images, fitted on {}, regularization {:.0e})",
            result.top1,
            sets.val.rows(),
            sets.train.rows(),
            result.regularization
        ))?;
    }
    Ok(Status::Complete)
}

/// Writes the features of a set.
pub fn embed(args: Embed) -> anyhow::Result<Status> {
    embedding::check_path(&args.out)?;
    let dataset = Dataset::open_unlabelled(&args.data).map_err(mimco::Error::from)?;
    let features = extractor(&args.backbone)?(&dataset)?;
    let names: Vec<String> = features.indices().iter().map(|&i| dataset.name(i as usize)).collect();
    embedding::write(&args.out, &features, &names)?;
    if args.backbone.common.json {
        output::json(&serde_json::json!({
            "images": features.rows(), "width": features.width(), "skipped": features.broken().len(), "out": args.out,
        }))?;
    } else {
        output::line(&format!("{} features of width {} in {}", features.rows(), features.width(), args.out.display()))?;
    }
    Ok(Status::Complete)
}

/// The features and labels of a training and a validation set.
struct LabeledFeatures {
    train: Features,
    train_labels: Vec<u32>,
    val: Features,
    val_labels: Vec<u32>,
    classes: usize,
}

impl LabeledFeatures {
    fn open(backbone: &Backbone, train: &Path, val: &Path) -> Result<LabeledFeatures, mimco::Error> {
        let train_set = Dataset::open_labelled(train)?;
        let val_set = Dataset::open_labelled(val)?.with_classes(train_set.classes())?;
        let features = extractor(backbone)?;
        let (train, val) = (features(&train_set)?, features(&val_set)?);
        Ok(LabeledFeatures {
            train_labels: labels_of(&train_set, &train)?,
            val_labels: labels_of(&val_set, &val)?,
            classes: train_set.classes().len(),
            train,
            val,
        })
    }
}

/// Loads the backbone and returns the function that computes the features of a set.
fn extractor(args: &Backbone) -> Result<impl Fn(&Dataset) -> Result<Features, mimco::Error>, mimco::Error> {
    args.common.announce();
    let overrides = BackboneOverrides::from_settings(&args.settings)?;
    let backbone = backbone::load(&args.backbone, &overrides)?.backbone;
    let kind = args.feature;
    Ok(move |set: &Dataset| extract(&backbone.vit, &backbone.parameters, set, kind))
}
