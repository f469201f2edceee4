//! The demo: both stages on real images that come with the binary, then what the features are worth.

use crate::evaluation::features::{Features, extract, labels_of, pixels};
use crate::evaluation::{knn::knn_top1, linear::linear_top1};
use crate::interop::backbone;
use crate::models::overrides::BackboneOverrides;
use crate::models::vit::{Initialization, Vit};
use crate::report::{DemoReport, Row, write_demo};
use crate::settings::{Config, Plan};
use crate::training::{Images, Outcome, Run, Summary, pretrain};
use crate::{Error, files};
use flate2::read::GzDecoder;
use mimco_data::dataset::{InMemoryImages, parse_idx_images, parse_idx_labels};
use mimco_data::{Dataset, Rgb};
use mimco_engine::Parameters;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, MIT licence): the first 12,000 training and 2,000 test images, IDX images then IDX labels.
const TRAIN: &[u8] = include_bytes!("../data/fashion-mnist-train.gz");
const TEST: &[u8] = include_bytes!("../data/fashion-mnist-test.gz");
const CLASSES: [&str; 10] = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"];
/// DINO's protocol.
const NEIGHBOURS: (usize, f64) = (20, 0.07);

/// What `demo` is asked for.
pub struct DemoRequest {
    /// The stages' settings.
    pub plan: Plan,
    /// The run folder.
    pub out: PathBuf,
    /// Start anew.
    pub overwrite: bool,
    /// Set by a signal.
    pub interrupted: Arc<AtomicBool>,
}

/// The demo in figures, as `summary.json` has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DemoSummary {
    /// What was trained on.
    pub dataset: String,
    /// Seconds of all of it.
    pub seconds: f64,
    /// Raw pixels, a random network, the teacher and the student.
    pub rows: Vec<Row>,
}

/// Runs the demo; `None` after a signal.
///
/// # Errors
/// What cannot be trained or written.
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
                tracing::info!("{} is finished already; --overwrite starts it anew", request.out.display());
                return Ok(Some(summary));
            }
            None => stages,
        },
    };
    tracing::info!("measuring what the features are worth on the 2,000 test images");
    let begun = Instant::now();
    let (rows, pictures) = measure(&request.plan.main, &stages, &images)?;
    let seconds = begun.elapsed().as_secs_f64() + stages.iter().map(|s| s.seconds).sum::<f64>();
    let dataset = format!("Fashion-MNIST, {} training and {} test images", images.train.len(), images.val.as_ref().map_or(0, Dataset::len));
    let summary = DemoSummary { dataset, seconds, rows };
    report(request, &summary, &pictures)?;
    let json = serde_json::to_vec_pretty(&summary).map_err(|e| Error::file(&summary_path, e))?;
    files::write_atomically(&summary_path, &json)?;
    Ok(Some(summary))
}

/// The packed images.
///
/// # Errors
/// A binary that was tampered with.
pub fn images() -> Result<Images, Error> {
    Ok(Images { train: unpack(TRAIN, "train")?, val: Some(unpack(TEST, "test")?) })
}

fn unpack(gz: &[u8], name: &str) -> Result<Dataset, Error> {
    let wrong = |what: String| Error::Training(format!("the demo's packed images are damaged ({what}); build the program again"));
    let mut bytes = Vec::new();
    GzDecoder::new(gz).read_to_end(&mut bytes).map_err(|e| wrong(e.to_string()))?;
    // A labels file is its eight bytes of head and a byte an image: both follow from the length.
    const PIXELS: usize = 28 * 28;
    let count = bytes.len().saturating_sub(16 + 8) / (PIXELS + 1);
    let (images, labels) = bytes.split_at_checked(16 + count * PIXELS).ok_or_else(|| wrong("cut short".into()))?;
    let mut packed: InMemoryImages = parse_idx_images(images).map_err(wrong)?;
    packed.labels = Some(parse_idx_labels(labels).map_err(wrong)?);
    Ok(Dataset::from_memory(name, packed, CLASSES.map(String::from).to_vec()))
}

/// A caption and a PNG file.
type Picture = (String, Vec<u8>);

/// A row each for raw pixels, the student's random beginning, the teacher and the student; and what the student finds alike.
fn measure(config: &Config, stages: &[Summary], images: &Images) -> Result<(Vec<Row>, Vec<Picture>), Error> {
    let (train, test) = (&images.train, images.val.as_ref().unwrap_or(&images.train));
    let row = |name: &str, method: &str, epochs: usize, seconds: f64, features: &[Features; 2]| {
        let [a, b] = features;
        let (la, lb) = (labels_of(train, a)?, labels_of(test, b)?);
        let (k, temperature) = NEIGHBOURS;
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
    let of = |vit: &Vit, parameters: &Parameters| {
        let kind = config.method.spec().feature();
        Ok::<_, Error>([extract(vit, parameters, train, kind)?, extract(vit, parameters, test, kind)?])
    };
    let size = config.model.image_size as u32;
    let mut parameters = Parameters::new();
    let random = Vit::declare(&config.vit(), &mut parameters, "");
    random.initialize(&mut parameters, Initialization::Normal, config.seed);
    let mut rows = vec![
        row("pixels", "raw pixels", 0, 0.0, &[pixels(train, size)?, pixels(test, size)?])?,
        row("random", "random network", 0, 0.0, &of(&random, &parameters)?)?,
    ];
    let mut pictures = Vec::new();
    for (name, stage) in ["teacher", "student"].into_iter().zip(stages) {
        let trained = backbone::load(&stage.backbone, &BackboneOverrides::default())?.backbone;
        let features = of(&trained.vit, &trained.parameters)?;
        rows.push(row(name, &stage.method, stage.epochs, stage.seconds, &features)?);
        if name == "student" {
            let caption = "Test images (left) and the training images whose features lie nearest by the student.";
            pictures.push((caption.to_string(), neighbours(train, test, &features)?));
        }
    }
    Ok((rows, pictures))
}

/// The first test images, and beside each its nearest training images, as a PNG file.
fn neighbours(train: &Dataset, test: &Dataset, [a, b]: &[Features; 2]) -> Result<Vec<u8>, Error> {
    const QUERIES: usize = 8;
    const NEAREST: usize = 7;
    const CELL: usize = 60; // an image at twice its size, and a margin
    let mut grid = Rgb { width: ((NEAREST + 1) * CELL + CELL / 4) as u32, height: (QUERIES * CELL) as u32, pixels: Vec::new() };
    grid.pixels.resize(3 * grid.width as usize * grid.height as usize, 255);
    let mut put = |image: &Rgb, row: usize, column: usize| {
        // The query stands a little apart.
        let left = column * CELL + if column > 0 { CELL / 4 } else { 0 };
        let (width, height) = (2 * image.width as usize, 2 * image.height as usize);
        for (y, x) in (0..height.min(CELL)).flat_map(|y| (0..width.min(CELL)).map(move |x| (y, x))) {
            let from = 3 * (y / 2 * image.width as usize + x / 2);
            let to = 3 * ((row * CELL + y) * grid.width as usize + left + x);
            grid.pixels[to..to + 3].copy_from_slice(&image.pixels[from..from + 3]);
        }
    };
    let cosine = |x: &[f32], y: &[f32]| {
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
        dot(x, y) / (dot(x, x) * dot(y, y)).sqrt().max(1e-12)
    };
    for query in 0..QUERIES.min(b.rows()) {
        put(&test.load(b.indices()[query] as usize)?, query, 0);
        let mut near: Vec<(f32, u32)> = (0..a.rows()).map(|row| (cosine(a.row(row), b.row(query)), a.indices()[row])).collect();
        near.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
        for (column, (_, index)) in near.iter().take(NEAREST).enumerate() {
            put(&train.load(*index as usize)?, query, column + 1);
        }
    }
    Ok(grid.to_png()?)
}

/// The command for somebody's own images.
pub const NEXT: &str = "mimco pretrain --data FOLDER_OF_IMAGES --out my-run";

fn report(request: &DemoRequest, summary: &DemoSummary, pictures: &[Picture]) -> Result<(), Error> {
    let epochs = |name: &str| summary.rows.iter().find(|row| row.name == name).map_or(0, |row| row.epochs);
    let intro = [
        format!(
            "A vision transformer ({}) learned from {} without labels: a MoCo v3 teacher for {} epochs, then a MimCo student, begun from random \
             weights, for {} more.",
            request.plan.main.vit().name(),
            summary.dataset,
            epochs("teacher"),
            epochs("student")
        ),
        "Labels serve only to measure: how often the nearest neighbours of a test image vote for its class (kNN), and how often a linear \
         classifier on frozen features finds it (linear). Raw pixels are a strong baseline here, since these items stand centred on black."
            .into(),
        "The student needs its teacher: the cost of the second stage counts the first's.".into(),
    ];
    let stages = [
        ("Stage 1: the teacher (MoCo v3)".to_string(), request.out.join("teacher/metrics.jsonl")),
        ("Stage 2: the student (MimCo)".to_string(), request.out.join("metrics.jsonl")),
    ];
    let report = DemoReport { title: "mimco demo", intro: &intro, rows: &summary.rows, stages: &stages, pictures, next: NEXT };
    write_demo(&request.out.join("report.html"), &report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packed_images_are_fashion_mnists() {
        let images = images().unwrap();
        let test = images.val.unwrap();
        assert_eq!((images.train.len(), test.len()), (12_000, 2_000));
        // The first training image is an ankle boot, the first test image too; the first t-shirt is image 1.
        assert_eq!((images.train.label(0), images.train.label(1), test.label(0)), (Some(9), Some(0), Some(9)));
        let share = (0..test.len()).filter(|&i| test.label(i) == Some(3)).count();
        assert!((150..250).contains(&share), "dresses are a tenth: {share}");
    }
}
