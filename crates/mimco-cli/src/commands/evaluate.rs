//! `mimco knn`, `mimco linear`, `mimco embed`: features of a backbone, and what they are worth.

use crate::args::{Backbone, Embed, Knn, Linear};
use crate::{Done, output};
use mimco::evaluation::features::{Features, extract, labels_of};
use mimco::evaluation::{embed as embedding, knn::knn_top1, linear::linear_top1};
use mimco::interop::backbone;
use mimco::models::overrides::BackboneOverrides;
use mimco_data::Dataset;
use std::path::Path;

pub fn knn(args: Knn) -> anyhow::Result<Done> {
    let sets = Labelled::open(&args.backbone, &args.train, &args.val)?;
    let top1 = knn_top1(&sets.train, &sets.train_labels, &sets.val, &sets.val_labels, sets.classes, args.k as usize, args.temperature)?;
    if args.backbone.common.json {
        output::json(&serde_json::json!({
            "knn_top1": top1, "k": args.k, "temperature": args.temperature, "train": sets.train.rows(), "val": sets.val.rows(),
        }))?;
    } else {
        output::line(&format!(
            "kNN accuracy {top1:.2} % ({} images, {} neighbours among {})",
            sets.val.rows(),
            args.k.min(sets.train.rows() as u32),
            sets.train.rows()
        ))?;
    }
    Ok(Done::Complete)
}

pub fn linear(args: Linear) -> anyhow::Result<Done> {
    let sets = Labelled::open(&args.backbone, &args.train, &args.val)?;
    let result = linear_top1(&sets.train, &sets.train_labels, &sets.val, &sets.val_labels, sets.classes, args.seed)?;
    if args.backbone.common.json {
        output::json(&serde_json::json!({
            "linear_top1": result.top1, "regularisation": result.regularisation, "train": sets.train.rows(), "val": sets.val.rows(),
        }))?;
    } else {
        output::line(&format!(
            "linear accuracy {:.2} % ({} images, learned from {}, regularisation {:.0e})",
            result.top1,
            sets.val.rows(),
            sets.train.rows(),
            result.regularisation
        ))?;
    }
    Ok(Done::Complete)
}

pub fn embed(args: Embed) -> anyhow::Result<Done> {
    embedding::check_path(&args.out)?;
    let dataset = Dataset::heap(&args.data).map_err(mimco::Error::from)?;
    let features = features(&args.backbone, [&dataset])?.remove(0);
    let names: Vec<String> = features.indices().iter().map(|&i| dataset.name(i as usize)).collect();
    embedding::write(&args.out, &features, &names)?;
    if args.backbone.common.json {
        output::json(&serde_json::json!({
            "images": features.rows(), "width": features.width(), "skipped": features.broken().len(), "out": args.out,
        }))?;
    } else {
        output::line(&format!("{} features of width {} in {}", features.rows(), features.width(), args.out.display()))?;
    }
    Ok(Done::Complete)
}

/// Two labelled sets as features.
struct Labelled {
    train: Features,
    train_labels: Vec<u32>,
    val: Features,
    val_labels: Vec<u32>,
    classes: usize,
}

impl Labelled {
    fn open(backbone: &Backbone, train: &Path, val: &Path) -> Result<Labelled, mimco::Error> {
        let train_set = Dataset::labelled(train)?;
        let val_set = Dataset::labelled(val)?.with_classes(train_set.classes())?;
        let mut features = features(backbone, [&train_set, &val_set])?.into_iter();
        let (Some(train), Some(val)) = (features.next(), features.next()) else {
            return Err(mimco::Error::Training("two sets give two arrays of features".into()));
        };
        Ok(Labelled {
            train_labels: labels_of(&train_set, &train)?,
            val_labels: labels_of(&val_set, &val)?,
            classes: train_set.classes().len(),
            train,
            val,
        })
    }
}

fn features<const N: usize>(args: &Backbone, sets: [&Dataset; N]) -> Result<Vec<Features>, mimco::Error> {
    args.common.announce();
    let overrides = BackboneOverrides::from_settings(&args.settings)?;
    let backbone = backbone::load(&args.backbone, &overrides)?.backbone;
    sets.iter().map(|set| extract(&backbone.vit, &backbone.parameters, set, args.feature)).collect()
}
