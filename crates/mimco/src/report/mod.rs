//! Reports: one HTML file each, for any browser, without network or scripts.

mod charts;
mod history;
mod page;
mod plot;
mod results;

use crate::Error;
use crate::files::write_atomically;
use history::History;
use page::Page;
pub use results::Row;
use std::path::{Path, PathBuf};

/// What the report of a run tells.
pub struct RunReport<'a> {
    /// Its heading.
    pub title: &'a str,
    /// Names and values for the table on top.
    pub facts: &'a [(String, String)],
    /// `metrics.jsonl`; it may be missing or cut short.
    pub metrics: &'a Path,
    /// The resolved settings, as TOML.
    pub config: &'a str,
    /// What the reader must not miss.
    pub notes: &'a [String],
}

/// What the report of a demonstration tells.
pub struct DemoReport<'a> {
    /// Its heading.
    pub title: &'a str,
    /// Paragraphs below it.
    pub intro: &'a [String],
    /// What was compared.
    pub rows: &'a [Row],
    /// Title and `metrics.jsonl` of each stage.
    pub stages: &'a [(String, PathBuf)],
    /// Caption and PNG file of each picture.
    pub pictures: &'a [(String, Vec<u8>)],
    /// The command for the reader's own folder.
    pub next: &'a str,
}

/// Writes the report of a run.
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

/// Writes the report of a demonstration.
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
        page.heading("Your own images");
        page.code(report.next);
    }
    write_atomically(path, page.finish().as_bytes())
}

#[cfg(test)]
mod tests;
