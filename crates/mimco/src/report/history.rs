//! The figures of a run, read back from `metrics.jsonl` as a report needs them.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::path::Path;

/// Larger figures say no more than infinity does, and their differences overflow.
const LARGEST: f64 = 1e30;

/// Steps and values of one figure, by step.
pub type Points = Vec<(f64, f64)>;

/// All figures of a run.
#[derive(Debug, Default, PartialEq)]
pub struct History {
    /// By metric name; only finite values.
    pub figures: BTreeMap<String, Points>,
    /// The last step that any line has.
    pub last_step: f64,
    /// In words, what is missing.
    pub notes: Vec<String>,
}

impl History {
    /// Reads what can be read of a file; the rest is said in the notes, since a report must not fail for want of a curve.
    pub fn read(path: &Path) -> History {
        let mut history = History::default();
        let (mut unreadable, mut not_finite) = (0, 0);
        let mut read = || -> io::Result<()> {
            let mut file = BufReader::new(File::open(path)?);
            let mut line = Vec::new();
            while file.read_until(b'\n', &mut line)? > 0 {
                match history.take(&line) {
                    Some(nulls) => not_finite += nulls,
                    None => unreadable += 1,
                }
                line.clear();
            }
            Ok(())
        };
        match read() {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => history.notes.push("There is no metrics file, so no curves.".into()),
            Err(e) => history.notes.push(format!("The metrics file cannot be read ({e}); what was read before stands below.")),
        }
        if unreadable > 0 {
            history.notes.push(match unreadable {
                1 => "A line of the metrics file cannot be read and is left out; a run that was cut off leaves such a line at the end."
                    .into(),
                n => format!("{n} lines of the metrics file cannot be read and are left out."),
            });
        }
        if not_finite > 0 {
            history.notes.push(format!("{not_finite} figures were not finite and are left out."));
        }
        if history.figures.is_empty() && history.notes.is_empty() {
            history.notes.push("The metrics file has no figures yet.".into());
        }
        for points in history.figures.values_mut() {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        history
    }

    /// Takes a line; the count of its figures that are not finite, or nothing where it is no line of metrics.
    fn take(&mut self, line: &[u8]) -> Option<usize> {
        let line: Map<String, Value> = serde_json::from_slice(line).ok()?;
        let step = line.get("step")?.as_u64()? as f64;
        self.last_step = self.last_step.max(step);
        let mut not_finite = 0;
        for (name, value) in line.into_iter().filter(|(name, _)| name != "step" && name != "epoch") {
            match value.as_f64().filter(|value| value.abs() <= LARGEST) {
                Some(value) => self.figures.entry(name).or_default().push((step, value)),
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
    fn reads_what_can_be_read() {
        let history = read(
            b"{\"step\":10,\"epoch\":0,\"a\":1.5,\"b\":null}\nnot json \xff\n{\"epoch\":1,\"a\":2}\n[]\n{\"step\":20,\"epoch\":1,\"a\":2}\n{\"step\":30,\"a\":",
        );
        assert_eq!(history.figures, BTreeMap::from([("a".to_string(), vec![(10.0, 1.5), (20.0, 2.0)])]));
        assert_eq!(history.last_step, 20.0);
        assert_eq!(history.notes.len(), 2, "{:?}", history.notes);
        assert!(history.notes[0].starts_with("4 lines") && history.notes[1].starts_with("1 figures"));
    }

    #[test]
    fn says_that_there_is_nothing() {
        assert!(read(b"").notes[0].contains("no figures yet"));
        let missing = History::read(Path::new("no/such/metrics.jsonl"));
        assert_eq!(missing.notes, ["There is no metrics file, so no curves."]);
    }
}
