//! `mimco check-data PATH`

use crate::args::CheckData;
use crate::{commands::progress, output, status::Status};
use mimco_data::Dataset;
use mimco_data::check::{CheckReport, MAX_LISTED, check};
use std::collections::BTreeMap;

/// Largest number of odd images that are printed.
const PRINTED: usize = 20;

/// Checks every image of a set and prints a report.
pub fn run(args: CheckData) -> anyhow::Result<Status> {
    let dataset = Dataset::open_unlabelled(&args.data).map_err(mimco::Error::from)?;
    let report = check(&dataset, mimco_engine::cpu::threads::threads(), progress::images(dataset.len()));
    if args.json {
        output::json(&json(&report))?;
    } else {
        print(&report)?;
    }
    Ok(Status::Complete)
}

fn json(report: &CheckReport) -> serde_json::Value {
    let named =
        |list: &[(String, String)]| -> Vec<_> { list.iter().map(|(name, why)| serde_json::json!({ "file": name, "why": why })).collect() };
    serde_json::json!({
        "images": report.images, "broken": named(&report.broken), "widths": report.widths, "heights": report.heights, "grey": report.gray,
        "duplicates": report.duplicates, "mean": report.mean, "std": report.std,
        "formats": report.formats, "kinds": report.kinds, "turned": report.exif_rotated, "animated": report.animated,
        "oddities": report.unusual_counts, "odd": named(&report.unusual),
        "checksums": report.checksums.as_ref().map(|sums| serde_json::json!({ "files": sums.files, "wrong": named(&sums.wrong) })),
    })
}

fn print(report: &CheckReport) -> anyhow::Result<()> {
    let [w0, w1, w2] = report.widths;
    let [h0, h1, h2] = report.heights;
    output::line(&format!("{} images, {} cannot be read", report.images, report.broken.len()))?;
    output::line(&format!("widths    {w0} to {w2} px, median {w1}; heights {h0} to {h2} px, median {h1}"))?;
    output::line(&format!("gray      {}", report.gray))?;
    let three = |v: [f64; 3]| v.map(|x| format!("{x:.4}")).join(", ");
    output::line(&format!("mean      data.mean=[{}]", three(report.mean)))?;
    output::line(&format!("std       data.std=[{}]", three(report.std)))?;
    let counts = |counts: &BTreeMap<&str, usize>| counts.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ");
    for (label, what) in [("files    ", &report.formats), ("pixels   ", &report.kinds), ("odd      ", &report.unusual_counts)] {
        if !what.is_empty() {
            output::line(&format!("{label} {}", counts(what)))?;
        }
    }
    if report.exif_rotated > 0 {
        output::line(&format!("rotated   {} by their EXIF data", report.exif_rotated))?;
    }
    if let Some(sums) = &report.checksums {
        output::line(&format!("checksums {} of {} shards are correct", sums.files - sums.wrong.len(), sums.files))?;
        for (name, why) in &sums.wrong {
            output::line(&format!("wrong     {name}: {why}"))?;
        }
    }
    for (name, why) in report.unusual.iter().take(PRINTED) {
        output::line(&format!("odd       {name}: {why}"))?;
    }
    if report.unusual.len() > PRINTED {
        output::line(&format!("odd       more images; --json lists the first {MAX_LISTED}"))?;
    }
    for (name, why) in &report.broken {
        output::line(&format!("broken    {name}: {why}"))?;
    }
    for group in &report.duplicates {
        output::line(&format!("duplicate {}", group.join(", ")))?;
    }
    Ok(())
}
