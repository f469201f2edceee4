//! What is looked at while a training runs: kNN where there are labels, RankMe and the spread of features always, and a warning in words
//! when they collapse.

use crate::Error;
use crate::bench::products::ceiling;
use crate::evaluation::features::{extract, labels_of};
use crate::evaluation::health::{feature_std, rankme, verdict};
use crate::evaluation::knn::knn_top1;
use crate::models::backbone::FeatureKind;
use crate::models::vit::Vit;
use crate::settings::Config;
use mimco_data::Dataset;
use mimco_data::random::{Purpose, permutation};
use mimco_engine::{Parameters, Precision};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Images whose features' rank and spread are measured.
const HEALTH_IMAGES: usize = 1024;

/// The images to look at.
pub struct Watch {
    train: Dataset,
    val: Option<Dataset>,
    k: usize,
    temperature: f64,
    pooled: FeatureKind,
    precision: Precision,
    peak: OnceLock<f64>,
}

/// What was seen.
pub struct Looked {
    /// By metric name.
    pub figures: BTreeMap<String, f64>,
    /// In words, where something is wrong.
    pub warning: Option<String>,
}

impl Watch {
    /// Looks at a fixed draw of the training images, keyed by the seed, and at `val` where there are labels.
    pub fn new(config: &Config, train: &Dataset, val: Option<&Dataset>, pooled: FeatureKind) -> Watch {
        let wanted = if val.is_some() { config.train.knn_samples } else { HEALTH_IMAGES };
        let mut chosen = permutation(train.len(), config.seed, Purpose::Probe, 0);
        chosen.truncate(wanted);
        Watch {
            train: train.subset(&chosen),
            val: val.cloned(),
            k: config.train.knn_k,
            temperature: config.train.knn_temperature,
            pooled,
            precision: config.precision.engine(),
            peak: OnceLock::new(),
        }
    }

    /// Features of the images as they are now.
    pub fn look(&self, vit: &Vit, parameters: &Parameters) -> Result<Looked, Error> {
        let train = extract(vit, parameters, &self.train, self.pooled)?;
        let head = train.head(HEALTH_IMAGES);
        let (rank, spread) = (rankme(&head), feature_std(&head));
        let mut figures = BTreeMap::from([("health/rankme".to_string(), rank), ("health/feature_std".to_string(), spread)]);
        if let Some(val) = &self.val {
            let features = extract(vit, parameters, val, self.pooled)?;
            let (a, b) = (labels_of(&self.train, &train)?, labels_of(val, &features)?);
            let top1 = knn_top1(&train, &a, &features, &b, val.classes().len(), self.k, self.temperature)?;
            figures.insert("eval/knn_top1".into(), top1);
        }
        Ok(Looked { figures, warning: verdict(rank, spread, head.rows(), head.width()) })
    }

    /// Floating-point operations a second of a large matrix product here, measured once: what `perf/mfu` is a share of.
    pub fn peak_flop_per_second(&self) -> f64 {
        *self.peak.get_or_init(|| ceiling(self.precision))
    }
}
