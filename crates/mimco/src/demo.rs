//! Demo: both stages on real images that are part of the binary, then an evaluation of the
//! features.

use crate::evaluation::features::{Features, extract, labels_of, pixels};
use crate::evaluation::{knn::knn_top1, linear::linear_top1};
use crate::interop::backbone;
use crate::models::overrides::BackboneOverrides;
use crate::models::vit::{Initialization, Vit};
use crate::report::{DemoReport, Row, picture_grid, write_demo};
use crate::settings::{Config, Plan};
use crate::training::{Images, Outcome, Run, Summary, pretrain};
use crate::{Error, files};
use flate2::read::GzDecoder;
use mimco_data::Dataset;
use mimco_data::dataset::{InMemoryImages, parse_idx_images, parse_idx_labels};
use mimco_engine::Parameters;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// First 12,000 training images of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, MIT license), as
/// IDX images followed by IDX labels.
const TRAIN: &[u8] = include_bytes!("../data/fashion-mnist-train.gz");
/// First 2,000 test images of Fashion-MNIST, in the same format.
const TEST: &[u8] = include_bytes!("../data/fashion-mnist-test.gz");
/// Names of the classes, by label.
const CLASSES: [&str; 10] = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"];
/// k and temperature of DINO's kNN protocol.
const KNN: (usize, f64) = (20, 0.07);

/// Arguments of the demo.
pub struct DemoRequest {
    /// Settings of both stages.
    pub plan: Plan,
    /// Run folder.
    pub out: PathBuf,
    /// Whether to delete earlier results and start again.
    pub overwrite: bool,
    /// Flag that a signal sets to interrupt the run.
    pub interrupted: Arc<AtomicBool>,
}

/// Results of the demo, the contents of `summary.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DemoSummary {
    /// Description of the dataset.
    pub dataset: String,
    /// Total seconds of training and evaluation.
    pub seconds: f64,
    /// Accuracies of raw pixels, a random network, the teacher and the student.
    pub rows: Vec<Row>,
}

/// Runs the demo, or resumes it. Returns `None` if a signal interrupted it.
///
/// # Errors
/// A training error, or a file that cannot be read or written.
pub fn run(request: &DemoRequest) -> Result<Option<DemoSummary>, Error> {
    let images = images()?;
    let run = Run {
        plan: request.plan.clone(),
        teacher: None,
        init: None,
        out: request.out.clone(),
        overwrite: request.overwrite,
        interrupted: request.interrupted.clone(),
    };
    let summary_path = request.out.join("summary.json");
    let stages = match pretrain(&run, &images)? {
        Outcome::Interrupted => return Ok(None),
        Outcome::Finished(stages) => stages,
        Outcome::AlreadyFinished(stages) => match std::fs::read(&summary_path).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            Some(summary) => {
                tracing::info!("{} is finished already; use --overwrite to start again", request.out.display());
                return Ok(Some(summary));
            }
            None => stages,
        },
    };
    tracing::info!("evaluating the features on the 2,000 test images");
    let begun = Instant::now();
    let (rows, pictures) = evaluate(&request.plan.main, &stages, &images)?;
    let seconds = begun.elapsed().as_secs_f64() + stages.iter().map(|s| s.seconds).sum::<f64>();
    let dataset = format!("Fashion-MNIST, {} training and {} test images", images.train.len(), images.val.as_ref().map_or(0, Dataset::len));
    let summary = DemoSummary { dataset, seconds, rows };
    report(request, &summary, &pictures)?;
    let json = serde_json::to_vec_pretty(&summary).map_err(|e| Error::file(&summary_path, e))?;
    files::write_atomically(&summary_path, &json)?;
    Ok(Some(summary))
}

/// Returns the images that are part of the binary.
///
/// # Errors
/// Corrupt images: the binary was altered.
pub fn images() -> Result<Images, Error> {
    Ok(Images { train: unpack(TRAIN, "train")?, val: Some(unpack(TEST, "test")?) })
}

/// Decompresses IDX images and labels to a dataset.
fn unpack(gz: &[u8], name: &str) -> Result<Dataset, Error> {
    let corrupt = |what: String| Error::Training(format!("the images in the program are corrupt ({what}); build the program again"));
    let mut bytes = Vec::new();
    GzDecoder::new(gz).read_to_end(&mut bytes).map_err(|e| corrupt(e.to_string()))?;
    // The images have a header of 16 bytes, the labels one of 8 and a byte per image: the length
    // gives the number of images.
    const PIXELS: usize = 28 * 28;
    let count = bytes.len().saturating_sub(16 + 8) / (PIXELS + 1);
    let (images, labels) = bytes.split_at_checked(16 + count * PIXELS).ok_or_else(|| corrupt("truncated".into()))?;
    let mut images: InMemoryImages = parse_idx_images(images).map_err(corrupt)?;
    images.labels = Some(parse_idx_labels(labels).map_err(corrupt)?);
    Ok(Dataset::from_memory(name, images, CLASSES.map(String::from).to_vec()))
}

/// Caption and PNG file of a picture.
type Picture = (String, Vec<u8>);

/// Evaluates raw pixels, a random network, the teacher and the student. Also returns pictures of
/// the student's nearest neighbors.
fn evaluate(config: &Config, stages: &[Summary], images: &Images) -> Result<(Vec<Row>, Vec<Picture>), Error> {
    let (train, test) = (&images.train, images.val.as_ref().unwrap_or(&images.train));
    let row = |name: &str, method: &str, epochs: usize, seconds: f64, features: &[Features; 2]| {
        let [a, b] = features;
        let (la, lb) = (labels_of(train, a)?, labels_of(test, b)?);
        let (k, temperature) = KNN;
        let classes = train.classes().len();
        let knn = knn_top1(a, &la, b, &lb, classes, k, temperature)?;
        let linear = linear_top1(a, &la, b, &lb, classes, config.seed)?.top1;
        Ok::<Row, Error>(Row {
            name: name.into(),
            method: method.into(),
            epochs: epochs as u64,
            seconds,
            knn_top1: knn,
            linear_top1: linear,
        })
    };
    let extract_both = |vit: &Vit, parameters: &Parameters| {
        let kind = config.method.spec().feature();
        Ok::<_, Error>([extract(vit, parameters, train, kind)?, extract(vit, parameters, test, kind)?])
    };
    let size = config.model.image_size as u32;
    let mut parameters = Parameters::new();
    let random = Vit::declare(&config.vit(), &mut parameters, "");
    random.initialize(&mut parameters, Initialization::Normal, config.seed);
    let mut rows = vec![
        row("pixels", "raw pixels", 0, 0.0, &[pixels(train, size)?, pixels(test, size)?])?,
        row("random", "random network", 0, 0.0, &extract_both(&random, &parameters)?)?,
    ];
    let mut pictures = Vec::new();
    for (name, stage) in ["teacher", "student"].into_iter().zip(stages) {
        let trained = backbone::load(&stage.backbone, &BackboneOverrides::default())?.backbone;
        let features = extract_both(&trained.vit, &trained.parameters)?;
        rows.push(row(name, &stage.method, stage.epochs, stage.seconds, &features)?);
        if name == "student" {
            let caption = "Test images (left column) and their nearest training images by the student's features.";
            pictures.push((caption.to_string(), nearest_neighbors(train, test, &features)?));
        }
    }
    Ok((rows, pictures))
}

/// Draws the first test images, each followed by its nearest training images. Returns a PNG file.
fn nearest_neighbors(train: &Dataset, test: &Dataset, [a, b]: &[Features; 2]) -> Result<Vec<u8>, Error> {
    const QUERIES: usize = 8;
    const NEAREST: usize = 7;
    let cosine = |x: &[f32], y: &[f32]| {
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
        dot(x, y) / (dot(x, x) * dot(y, y)).sqrt().max(1e-12)
    };
    let mut images = Vec::new();
    for query in 0..QUERIES.min(b.rows()) {
        images.push(test.load(b.indices()[query] as usize)?);
        let mut by_similarity: Vec<(f32, u32)> = (0..a.rows()).map(|row| (cosine(a.row(row), b.row(query)), a.indices()[row])).collect();
        by_similarity.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
        for (_, index) in by_similarity.iter().take(NEAREST) {
            images.push(train.load(*index as usize)?);
        }
    }
    picture_grid::png(&images, NEAREST + 1)
}

/// Command that trains on the user's own images.
pub const NEXT: &str = "mimco pretrain --data FOLDER_OF_IMAGES --out my-run";

/// Writes `report.html`.
fn report(request: &DemoRequest, summary: &DemoSummary, pictures: &[Picture]) -> Result<(), Error> {
    let epochs = |name: &str| summary.rows.iter().find(|row| row.name == name).map_or(0, |row| row.epochs);
    let intro = [
        format!(
            "A vision transformer ({}) was pre-trained without labels on {}: first a MoCo v3 teacher for {} epochs, then a MimCo student, \
             from random weights, for {} epochs.",
            request.plan.main.vit().name(),
            summary.dataset,
            epochs("teacher"),
            epochs("student")
        ),
        "Labels are used only for evaluation. kNN is the accuracy of a vote of the nearest training images; linear is the accuracy of a \
         linear classifier on frozen features. Raw pixels are a strong baseline here, because the items are centered on black."
            .into(),
        "The student needs a trained teacher: its total cost includes the first stage.".into(),
    ];
    let stages = [
        ("Stage 1: teacher (MoCo v3)".to_string(), request.out.join("teacher/metrics.jsonl")),
        ("Stage 2: student (MimCo)".to_string(), request.out.join("metrics.jsonl")),
    ];
    let report = DemoReport { title: "mimco demo", intro: &intro, rows: &summary.rows, stages: &stages, pictures, next: NEXT };
    write_demo(&request.out.join("report.html"), &report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_are_from_fashion_mnist() {
        let images = images().unwrap();
        let test = images.val.unwrap();
        assert_eq!((images.train.len(), test.len()), (12_000, 2_000));
        // The first training and test images are ankle boots; training image 1 is the first
        // t-shirt.
        assert_eq!((images.train.label(0), images.train.label(1), test.label(0)), (Some(9), Some(0), Some(9)));
        let dresses = (0..test.len()).filter(|&i| test.label(i) == Some(3)).count();
        assert!((150..250).contains(&dresses), "about a tenth are dresses: {dresses}");
    }
}
