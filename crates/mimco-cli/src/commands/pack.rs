//! `mimco pack PATH`

use crate::args::{Pack, PackFormat};
use crate::{Done, output, signals};
use mimco::Error;
use mimco_data::pack::{Format, Outcome, PackOptions, PackReport, pack};
use mimco_data::{DataError, Dataset};
use std::io::IsTerminal;
use std::path::Path;

pub fn run(args: Pack) -> anyhow::Result<Done> {
    let format = match args.format {
        PackFormat::Jpeg => Format::Jpeg,
        PackFormat::Raw => Format::Raw,
    };
    let options = PackOptions { size: args.size, format, quality: args.quality, shard_bytes: args.shard_mib << 20 };
    let dataset = open(&args.data)?;
    let interrupted = signals::interrupted()?;
    let total = dataset.len();
    let bar = std::io::stderr().is_terminal();
    let progress = |done: usize| {
        if bar && (done.is_multiple_of(100) || done == total) {
            eprint!("\r{done} of {total} images{}", if done == total { "\n" } else { "" });
        }
    };
    let threads = mimco_engine::cpu::threads::threads();
    let report = pack(&dataset, &args.out, &options, threads, progress, &interrupted).map_err(Error::from)?;
    match report.outcome {
        Outcome::Interrupted => {
            tracing::info!("interrupted; {} whole shards are kept, and the same command goes on behind them", report.shards);
            return Ok(Done::Interrupted);
        }
        Outcome::AlreadyFinished => tracing::info!("{} is finished already, nothing was changed", args.out.display()),
        Outcome::Finished if report.resumed > 0 => tracing::info!("went on behind {} images", report.resumed),
        Outcome::Finished => {}
    }
    if args.json {
        output::json(&json(&report, &args.out))?;
    } else {
        print(&report, &args.out)?;
    }
    Ok(Done::Complete)
}

/// With labels where every image has one: no image is left out for the sake of labels.
fn open(path: &Path) -> anyhow::Result<Dataset> {
    if path.join("train").is_dir()
        && let Some(val) = ["val", "validation"].into_iter().find(|name| path.join(name).is_dir())
    {
        let what = format!("has train/ and {val}/, which would become one set; pack each by itself, into DIR/train and DIR/{val}");
        return Err(Error::from(DataError::Misuse { path: path.to_path_buf(), what }).into());
    }
    let heap = Dataset::heap(path).map_err(Error::from)?;
    match Dataset::labelled(path) {
        Ok(labelled) if labelled.len() == heap.len() => Ok(labelled),
        Ok(_) => {
            tracing::warn!("{}: all images are packed, without labels, as some lie outside class folders", path.display());
            Ok(heap)
        }
        Err(_) => Ok(heap),
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
    output::line(&format!("{} images, {} of them shrunk, {} left out", report.images, report.shrunk, report.broken.len()))?;
    output::line(&format!("{} shards, {:.1} MiB in {}", report.shards, report.bytes as f64 / f64::from(1 << 20), out.display()))?;
    for (name, why) in &report.broken {
        output::line(&format!("broken    {name}: {why}"))?;
    }
    Ok(())
}
