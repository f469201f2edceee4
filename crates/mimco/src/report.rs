//! stub
#![allow(missing_docs, unused)]
use crate::Error;
use std::path::{Path, PathBuf};
pub struct RunReport<'a> {
    pub title: &'a str,
    pub facts: &'a [(String, String)],
    pub metrics: &'a Path,
    pub config: &'a str,
    pub notes: &'a [String],
}
pub fn write_run(path: &Path, report: &RunReport<'_>) -> Result<(), Error> {
    Ok(())
}
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Row {
    pub name: String,
    pub method: String,
    pub epochs: u64,
    pub seconds: f64,
    pub knn_top1: f64,
    pub linear_top1: f64,
}
pub struct DemoReport<'a> {
    pub title: &'a str,
    pub intro: &'a [String],
    pub rows: &'a [Row],
    pub stages: &'a [(String, PathBuf)],
    pub pictures: &'a [(String, Vec<u8>)],
    pub next: &'a str,
}
pub fn write_demo(path: &Path, report: &DemoReport<'_>) -> Result<(), Error> {
    Ok(())
}
