//! HTML reports: one self-contained file each, without scripts or network access.

mod charts;
mod history;
mod page;
pub(crate) mod picture_grid;
mod plot;
mod results;

use crate::Error;
use crate::files::write_atomically;
use history::History;
use page::Page;
pub use results::Row;
use std::path::{Path, PathBuf};

/// Contents of the report of a run.
pub struct RunReport<'a> {
    /// Title of the page.
    pub title: &'a str,
    /// Names and values of the table at the top.
    pub facts: &'a [(String, String)],
    /// Path of `metrics.jsonl`, which may be missing or truncated.
    pub metrics: &'a Path,
    /// Resolved settings as TOML.
    pub config: &'a str,
    /// Warnings, highlighted at the top.
    pub notes: &'a [String],
}

/// Contents of the report of the demo.
pub struct DemoReport<'a> {
    /// Title of the page.
    pub title: &'a str,
    /// Introductory paragraphs.
    pub intro: &'a [String],
    /// Compared features, one row each.
    pub rows: &'a [Row],
    /// Title and path of `metrics.jsonl` of each stage.
    pub stages: &'a [(String, PathBuf)],
    /// Caption and PNG file of each picture.
    pub pictures: &'a [(String, Vec<u8>)],
    /// Command that trains on the reader's own images.
    pub next: &'a str,
}

/// Writes the report of a run as an HTML file.
///
/// # Errors
/// A file that cannot be written.
pub fn write_run(path: &Path, report: &RunReport<'_>) -> Result<(), Error> {
    let mut page = Page::new(report.title);
    page.notes(report.notes);
    if !report.facts.is_empty() {
        page.facts(report.facts);
    }
    page.heading("Curves");
    page.push(&charts::curves(&History::read(report.metrics)));
    if !report.config.trim().is_empty() {
        page.heading("Settings");
        page.code(report.config);
    }
    write_atomically(path, page.finish().as_bytes())
}

/// Writes the report of the demo as an HTML file.
///
/// # Errors
/// A file that cannot be written.
pub fn write_demo(path: &Path, report: &DemoReport<'_>) -> Result<(), Error> {
    let mut page = Page::new(report.title);
    for paragraph in report.intro {
        page.paragraph(paragraph);
    }
    if !report.rows.is_empty() {
        page.heading("Results");
        page.push(&results::table(report.rows));
        page.push(&results::bars(report.rows));
    }
    if !report.pictures.is_empty() {
        page.heading("Pictures");
        for (caption, png) in report.pictures {
            page.picture(caption, png);
        }
    }
    for (title, metrics) in report.stages {
        page.heading(&format!("Curves: {title}"));
        page.push(&charts::curves(&History::read(metrics)));
    }
    if !report.next.trim().is_empty() {
        page.heading("Train on your own images");
        page.code(report.next);
    }
    write_atomically(path, page.finish().as_bytes())
}

#[cfg(test)]
mod tests;
