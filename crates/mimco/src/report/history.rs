//! Metrics of a run, read from `metrics.jsonl` for a report.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::path::Path;

/// Largest absolute value of a metric. Larger values count as not finite: their differences can
/// overflow in a chart.
const MAX_VALUE: f64 = 1e30;

/// Step and value pairs of one metric, sorted by step.
pub type Points = Vec<(f64, f64)>;

/// All metrics of a run.
#[derive(Debug, Default, PartialEq)]
pub struct History {
    /// Finite values by metric name.
    pub metrics: BTreeMap<String, Points>,
    /// Largest step of any line.
    pub last_step: f64,
    /// Notes for the reader about missing data.
    pub notes: Vec<String>,
}

impl History {
    /// Reads all valid lines of a file. Missing and invalid data become notes: a report must not
    /// fail because of a curve.
    pub fn read(path: &Path) -> History {
        let mut history = History::default();
        let (mut unreadable, mut not_finite) = (0, 0);
        let mut read = || -> io::Result<()> {
            let mut file = BufReader::new(File::open(path)?);
            let mut line = Vec::new();
            while file.read_until(b'\n', &mut line)? > 0 {
                match history.add_line(&line) {
                    Some(nulls) => not_finite += nulls,
                    None => unreadable += 1,
                }
                line.clear();
            }
            Ok(())
        };
        match read() {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => history.notes.push("There is no metrics file, so there are no curves.".into()),
            Err(e) => {
                history.notes.push(format!("The metrics file cannot be read to the end ({e}). The curves show the lines before the error."))
            }
        }
        if unreadable > 0 {
            history.notes.push(match unreadable {
                1 => "One line of the metrics file is invalid and left out. An interrupted run can leave such a line at the end.".into(),
                n => format!("{n} lines of the metrics file are invalid and left out."),
            });
        }
        if not_finite > 0 {
            let values = if not_finite == 1 { "value is" } else { "values are" };
            history.notes.push(format!("{not_finite} {values} not finite and left out."));
        }
        if history.metrics.is_empty() && history.notes.is_empty() {
            history.notes.push("The metrics file has no values yet.".into());
        }
        for points in history.metrics.values_mut() {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        history
    }

    /// Adds the metrics of a line. Returns the number of values that are not finite, or `None` if
    /// the line is invalid.
    fn add_line(&mut self, line: &[u8]) -> Option<usize> {
        let line: Map<String, Value> = serde_json::from_slice(line).ok()?;
        let step = line.get("step")?.as_u64()? as f64;
        self.last_step = self.last_step.max(step);
        let mut not_finite = 0;
        for (name, value) in line.into_iter().filter(|(name, _)| name != "step" && name != "epoch") {
            match value.as_f64().filter(|value| value.abs() <= MAX_VALUE) {
                Some(value) => self.metrics.entry(name).or_default().push((step, value)),
                None => not_finite += 1,
            }
        }
        Some(not_finite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> History {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        History::read(file.path())
    }

    #[test]
    fn invalid_lines_and_values_become_notes() {
        let history = read(
            b"{\"step\":10,\"epoch\":0,\"a\":1.5,\"b\":null}\nnot json \xff\n{\"epoch\":1,\"a\":2}\n[]\n{\"step\":20,\"epoch\":1,\"a\":2}\n{\"step\":30,\"a\":",
        );
        assert_eq!(history.metrics, BTreeMap::from([("a".to_string(), vec![(10.0, 1.5), (20.0, 2.0)])]));
        assert_eq!(history.last_step, 20.0);
        assert_eq!(history.notes.len(), 2, "{:?}", history.notes);
        assert!(history.notes[0].starts_with("4 lines") && history.notes[1].starts_with("1 value is"));
    }

    #[test]
    fn a_note_reports_missing_metrics() {
        assert!(read(b"").notes[0].contains("no values yet"));
        let missing = History::read(Path::new("no/such/metrics.jsonl"));
        assert_eq!(missing.notes, ["There is no metrics file, so there are no curves."]);
    }
}
