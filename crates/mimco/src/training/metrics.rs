//! stub
#![allow(missing_docs, unused)]
use crate::Error;
use std::collections::BTreeMap;
use std::path::Path;
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    lines: u64,
}
pub struct MetricsWriter {
    f: std::fs::File,
}
impl MetricsWriter {
    pub fn create(f: &Path) -> Result<Self, Error> {
        Ok(Self { f: std::fs::File::create(f.join("metrics.jsonl")).unwrap() })
    }
    pub fn resume_at(f: &Path, p: &Position) -> Result<Self, Error> {
        Self::create(f)
    }
    pub fn log(&mut self, s: u64, e: u64, l: &BTreeMap<String, f64>) -> Result<(), Error> {
        use std::io::Write;
        writeln!(self.f, "{s} {e} {l:?}").unwrap();
        Ok(())
    }
    pub fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
    pub fn position(&self) -> Position {
        Default::default()
    }
    pub fn last(&self, n: &str) -> Option<f64> {
        None
    }
}
