//! Evaluation during training: kNN accuracy where there are labels, RankMe and the spread of the
//! features always, and a warning when they collapse.

use crate::Error;
use crate::evaluation::features::{extract, labels_of};
use crate::evaluation::health::{collapse_warning, feature_std, rankme};
use crate::evaluation::knn::knn_top1;
use crate::models::backbone::FeatureKind;
use crate::models::vit::Vit;
use crate::settings::Config;
use mimco_data::Dataset;
use mimco_data::random::{Purpose, permutation};
use mimco_engine::Parameters;
use std::collections::BTreeMap;

/// Images that RankMe and the spread of the features are computed from.
const HEALTH_IMAGES: usize = 1024;

/// Evaluates a backbone on fixed images.
pub(super) struct Monitor {
    train: Dataset,
    val: Option<Dataset>,
    k: usize,
    temperature: f64,
    feature: FeatureKind,
}

/// Result of one evaluation.
pub(super) struct Evaluation {
    /// Figures by metric name.
    pub metrics: BTreeMap<String, f64>,
    /// Warning where the features have collapsed.
    pub collapse_warning: Option<String>,
}

impl Monitor {
    /// Chooses training images by the seed; `val` are the labelled validation images.
    pub fn new(config: &Config, train: &Dataset, val: Option<&Dataset>) -> Monitor {
        let count = if val.is_some() { config.train.knn_samples } else { HEALTH_IMAGES };
        let mut chosen = permutation(train.len(), config.seed, Purpose::Probe, 0);
        chosen.truncate(count);
        Monitor {
            train: train.subset(&chosen),
            val: val.cloned(),
            k: config.train.knn_k,
            temperature: config.train.knn_temperature,
            feature: config.method.spec().feature(),
        }
    }

    /// Evaluates the features of a backbone.
    ///
    /// # Errors
    /// Images that cannot be read.
    pub fn evaluate(&self, vit: &Vit, parameters: &Parameters) -> Result<Evaluation, Error> {
        let train = extract(vit, parameters, &self.train, self.feature)?;
        let head = train.head(HEALTH_IMAGES);
        let (rank, spread) = (rankme(&head), feature_std(&head));
        let mut metrics = BTreeMap::from([("health/rankme".to_string(), rank), ("health/feature_std".to_string(), spread)]);
        if let Some(val) = &self.val {
            let features = extract(vit, parameters, val, self.feature)?;
            let (a, b) = (labels_of(&self.train, &train)?, labels_of(val, &features)?);
            let top1 = knn_top1(&train, &a, &features, &b, val.classes().len(), self.k, self.temperature)?;
            metrics.insert("eval/knn_top1".into(), top1);
        }
        Ok(Evaluation { metrics, collapse_warning: collapse_warning(rank, spread, head.rows(), head.width()) })
    }
}
