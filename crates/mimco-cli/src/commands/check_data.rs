//! `mimco check-data PATH`

use crate::args::CheckData;
use crate::{Done, output};
use mimco_data::Dataset;
use mimco_data::check::{CheckReport, LISTED, check};
use std::collections::BTreeMap;
use std::io::IsTerminal;

/// Odd images that are printed.
const PRINTED: usize = 20;

pub fn run(args: CheckData) -> anyhow::Result<Done> {
    let dataset = Dataset::heap(&args.data).map_err(mimco::Error::from)?;
    let total = dataset.len();
    let bar = std::io::stderr().is_terminal();
    let report = check(&dataset, mimco_engine::cpu::threads::threads(), |done| {
        if bar && (done % 100 == 0 || done == total) {
            eprint!("\r{done} of {total} images{}", if done == total { "\n" } else { "" });
        }
    });
    if args.json {
        output::json(&json(&report))?;
    } else {
        print(&report)?;
    }
    Ok(Done::Complete)
}

fn json(report: &CheckReport) -> serde_json::Value {
    let named =
        |list: &[(String, String)]| -> Vec<_> { list.iter().map(|(name, why)| serde_json::json!({ "file": name, "why": why })).collect() };
    serde_json::json!({
        "images": report.images, "broken": named(&report.broken), "widths": report.widths, "heights": report.heights, "grey": report.grey,
        "duplicates": report.duplicates, "mean": report.mean, "std": report.std,
        "formats": report.formats, "kinds": report.kinds, "turned": report.turned, "animated": report.animated,
        "oddities": report.oddities, "odd": named(&report.odd),
        "checksums": report.checksums.as_ref().map(|sums| serde_json::json!({ "files": sums.files, "wrong": named(&sums.wrong) })),
    })
}

fn print(report: &CheckReport) -> anyhow::Result<()> {
    let [w0, w1, w2] = report.widths;
    let [h0, h1, h2] = report.heights;
    output::line(&format!("{} images, {} of them cannot be read", report.images, report.broken.len()))?;
    output::line(&format!("widths    {w0} to {w2} px, median {w1}; heights {h0} to {h2} px, median {h1}"))?;
    output::line(&format!("grey      {}", report.grey))?;
    let three = |v: [f64; 3]| v.map(|x| format!("{x:.4}")).join(", ");
    output::line(&format!("mean      data.mean=[{}]", three(report.mean)))?;
    output::line(&format!("deviation data.std=[{}]", three(report.std)))?;
    let counts = |counts: &BTreeMap<&str, usize>| counts.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ");
    for (label, what) in [("files    ", &report.formats), ("pixels   ", &report.kinds), ("odd      ", &report.oddities)] {
        if !what.is_empty() {
            output::line(&format!("{label} {}", counts(what)))?;
        }
    }
    if report.turned > 0 {
        output::line(&format!("turned    {} by their EXIF data", report.turned))?;
    }
    if let Some(sums) = &report.checksums {
        output::line(&format!("checksums {} of {} shards are right", sums.files - sums.wrong.len(), sums.files))?;
        for (name, why) in &sums.wrong {
            output::line(&format!("wrong     {name}: {why}"))?;
        }
    }
    for (name, why) in report.odd.iter().take(PRINTED) {
        output::line(&format!("odd       {name}: {why}"))?;
    }
    if report.odd.len() > PRINTED {
        output::line(&format!("odd       and more; --json lists the first {LISTED}"))?;
    }
    for (name, why) in &report.broken {
        output::line(&format!("broken    {name}: {why}"))?;
    }
    for group in &report.duplicates {
        output::line(&format!("same      {}", group.join(", ")))?;
    }
    Ok(())
}
