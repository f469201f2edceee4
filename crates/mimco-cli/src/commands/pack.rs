//! `mimco pack PATH`

use crate::args::{Pack, PackFormat};
use crate::{commands::progress, output, signals, status::Status};
use mimco::Error;
use mimco_data::pack::{Format, Outcome, PackOptions, PackReport, pack};
use mimco_data::{DataError, Dataset};
use std::path::Path;

/// Packs a set, or continues a pack.
pub fn run(args: Pack) -> anyhow::Result<Status> {
    let format = match args.format {
        PackFormat::Jpeg => Format::Jpeg,
        PackFormat::Raw => Format::Raw,
    };
    let options = PackOptions { size: args.size, format, quality: args.quality, shard_bytes: args.shard_mib << 20 };
    let dataset = open(&args.data)?;
    let interrupted = signals::interrupted()?;
    let threads = mimco_engine::cpu::threads::threads();
    let report = pack(&dataset, &args.out, &options, threads, progress::images(dataset.len()), &interrupted).map_err(Error::from)?;
    match report.outcome {
        Outcome::Interrupted => {
            tracing::info!("interrupted after {} complete shards; run the same command again to continue", report.shards);
            return Ok(Status::Interrupted);
        }
        Outcome::AlreadyFinished => tracing::info!("{} is already finished, nothing was changed", args.out.display()),
        Outcome::Finished if report.resumed > 0 => tracing::info!("continued after {} images", report.resumed),
        Outcome::Finished => {}
    }
    if args.json {
        output::json(&json(&report, &args.out))?;
    } else {
        print(&report, &args.out)?;
    }
    Ok(Status::Complete)
}

/// Opens a set with labels if every image has one, and otherwise without, so that no image is left out.
fn open(path: &Path) -> anyhow::Result<Dataset> {
    if path.join("train").is_dir()
        && let Some(val) = ["val", "validation"].into_iter().find(|name| path.join(name).is_dir())
    {
        let what = format!("has train/ and {val}/, which would become one set; pack each one separately, into DIR/train and DIR/{val}");
        return Err(Error::from(DataError::Misuse { path: path.to_path_buf(), what }).into());
    }
    let unlabeled = Dataset::open_unlabelled(path).map_err(Error::from)?;
    match Dataset::open_labelled(path) {
        Ok(labeled) if labeled.len() == unlabeled.len() => Ok(labeled),
        Ok(_) => {
            tracing::warn!("{}: some images are outside class folders, so all are packed without labels", path.display());
            Ok(unlabeled)
        }
        Err(_) => Ok(unlabeled),
    }
}

fn json(report: &PackReport, out: &Path) -> serde_json::Value {
    let broken: Vec<_> = report.broken.iter().map(|(name, why)| serde_json::json!({ "file": name, "why": why })).collect();
    serde_json::json!({
        "out": out, "images": report.images, "shrunk": report.shrunk, "broken": broken, "shards": report.shards, "bytes": report.bytes,
        "resumed": report.resumed, "already_finished": report.outcome == Outcome::AlreadyFinished,
    })
}

fn print(report: &PackReport, out: &Path) -> anyhow::Result<()> {
    output::line(&format!("{} images, {} shrunk, {} left out", report.images, report.shrunk, report.broken.len()))?;
    output::line(&format!("{} shards, {:.1} MiB in {}", report.shards, report.bytes as f64 / f64::from(1 << 20), out.display()))?;
    for (name, why) in &report.broken {
        output::line(&format!("broken    {name}: {why}"))?;
    }
    Ok(())
}
