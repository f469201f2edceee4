//! Metrics of a run on disk: `metrics.jsonl`, one JSON object per line, and a TensorBoard file.
//!
//! A resumed run truncates both files to the position in its checkpoint, so that no line is written
//! twice.

mod events;

use crate::Error;
use crate::files::describe;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Name of the file with one JSON object per line.
pub const LINES: &str = "metrics.jsonl";
/// Name of the TensorBoard file, which must contain "tfevents". It has no time or host name, so
/// that a resumed run appends to the same file.
pub const EVENTS: &str = "events.out.tfevents.0.mimco";

/// Position in the metrics files, stored in a checkpoint.
///
/// It counts lines of `metrics.jsonl`: throughput values vary in length, and the same run must give
/// the same checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Number of lines of `metrics.jsonl`.
    pub lines: u64,
    /// Length of the TensorBoard file in bytes.
    pub events: u64,
}

/// Writer of the metrics of a run.
pub struct MetricsWriter {
    /// Number of lines written, those of earlier runs included.
    count: u64,
    /// `metrics.jsonl`.
    lines: Output,
    /// TensorBoard file.
    events: Output,
}

/// Line of `metrics.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    step: u64,
    epoch: u64,
    // Sorted by name; serde_json writes values that are not finite as null.
    #[serde(flatten)]
    metrics: &'a BTreeMap<String, f64>,
}

impl MetricsWriter {
    /// Creates both files, or truncates existing ones.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn create(folder: &Path) -> Result<MetricsWriter, Error> {
        for name in [LINES, EVENTS] {
            let path = folder.join(name);
            File::create(&path).map_err(|e| write_error(&path, &e))?;
        }
        MetricsWriter::resume_at(folder, &Position::default())
    }

    /// Opens both files at a position and drops everything after it.
    ///
    /// # Errors
    /// A file that is missing, shorter than the position, or cannot be written.
    pub fn resume_at(folder: &Path, position: &Position) -> Result<MetricsWriter, Error> {
        let lines = folder.join(LINES);
        let length = end_of_line(&lines, position.lines)?;
        let mut writer = MetricsWriter {
            count: position.lines,
            lines: Output::open_at(lines, length)?,
            events: Output::open_at(folder.join(EVENTS), position.events)?,
        };
        if position.events == 0 {
            writer.events.write(&events::record(&events::version(now())))?;
        }
        Ok(writer)
    }

    /// Appends the metrics of a step to both files. `epoch` counts from 0.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn log(&mut self, step: u64, epoch: u64, metrics: &BTreeMap<String, f64>) -> Result<(), Error> {
        let mut line = serde_json::to_vec(&Line { step, epoch, metrics }).map_err(|e| Error::file(&self.lines.path, e))?;
        line.push(b'\n');
        self.lines.write(&line)?;
        self.count += 1;
        self.events.write(&events::record(&events::scalars(now(), step, metrics)))
    }

    /// Syncs both files to disk. A checkpoint must not store a position before this call.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.lines.sync()?;
        self.events.sync()
    }

    /// Returns the position at the end of both files.
    pub fn position(&self) -> Position {
        Position { lines: self.count, events: self.events.length }
    }
}

/// Returns the last value of a metric in the `metrics.jsonl` of a run folder.
pub fn last_value(folder: &Path, name: &str) -> Option<f64> {
    let lines = BufReader::new(File::open(folder.join(LINES)).ok()?).lines().map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok()?.get(name)?.as_f64()).last()
}

/// Returns the length of the first `count` lines in bytes.
fn end_of_line(path: &Path, count: u64) -> Result<u64, Error> {
    let unreadable = |e: io::Error| {
        Error::file(
            path,
            format!("cannot be opened to resume: {e}; restore the file and make it readable, or use --overwrite to start again"),
        )
    };
    let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
    let (mut length, mut line) = (0, Vec::new());
    for done in 0..count {
        line.clear();
        length += file.read_until(b'\n', &mut line).map_err(unreadable)? as u64;
        if line.last() != Some(&b'\n') {
            return Err(Error::file(
                path,
                format!(
                    "has {done} complete lines, but the checkpoint expects {count}; restore the complete file, or use --overwrite to start again"
                ),
            ));
        }
    }
    Ok(length)
}

/// Returns the seconds since 1970, for TensorBoard's relative time axis. `metrics.jsonl` must be
/// reproducible and contains no time.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Returns the error of a failed write.
fn write_error(path: &Path, error: &io::Error) -> Error {
    Error::file(path, describe(error))
}

/// Append-only file without a buffer: each line is visible at once to programs that follow the run.
struct Output {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Output {
    /// Opens a file and truncates it to `length` bytes.
    fn open_at(path: PathBuf, length: u64) -> Result<Output, Error> {
        let open = || -> io::Result<(File, u64)> {
            let mut file = File::options().write(true).open(&path)?;
            let found = file.metadata()?.len();
            if found >= length {
                file.set_len(length)?;
                file.seek(SeekFrom::Start(length))?;
            }
            Ok((file, found))
        };
        match open() {
            Ok((file, found)) if found >= length => Ok(Output { path, file, length }),
            Ok((_, found)) => Err(Error::file(
                &path,
                format!(
                    "has {found} bytes, but the checkpoint expects {length}; restore the complete file, or use --overwrite to start again"
                ),
            )),
            Err(e) => Err(Error::file(
                &path,
                format!("cannot be opened to resume: {e}; restore the file and make it writable, or use --overwrite to start again"),
            )),
        }
    }

    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|e| write_error(&self.path, &e))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Syncs the file to disk.
    fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_data().map_err(|e| write_error(&self.path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn metrics(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs.iter().map(|(name, value)| (name.to_string(), *value)).collect()
    }

    fn log_steps(writer: &mut MetricsWriter, steps: std::ops::Range<u64>) {
        for step in steps {
            writer.log(step, step / 4, &metrics(&[("train/loss", 1.0 / (step + 1) as f64), ("optim/lr", 1e-4)])).unwrap();
        }
    }

    #[test]
    fn a_line_has_step_and_epoch_then_names_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::create(folder.path()).unwrap();
        writer
            .log(7, 1, &metrics(&[("train/loss", 0.5), ("optim/lr", 1e-4), ("health/rankme", f64::NAN), ("a\"b", f64::INFINITY)]))
            .unwrap();
        writer.log(8, 1, &metrics(&[])).unwrap();
        let text = fs::read_to_string(folder.path().join(LINES)).unwrap();
        let expected = concat!(
            r#"{"step":7,"epoch":1,"a\"b":null,"health/rankme":null,"optim/lr":0.0001,"train/loss":0.5}"#,
            "\n",
            r#"{"step":8,"epoch":1}"#,
            "\n"
        );
        assert_eq!(text, expected);
        assert_eq!(writer.position().lines, 2);
        assert_eq!((last_value(folder.path(), "train/loss"), last_value(folder.path(), "eval/knn_top1")), (Some(0.5), None));
    }

    #[test]
    fn a_resumed_run_has_the_files_of_an_uninterrupted_run() {
        let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        log_steps(&mut MetricsWriter::create(whole.path()).unwrap(), 0..12);

        let mut writer = MetricsWriter::create(killed.path()).unwrap();
        log_steps(&mut writer, 0..5);
        writer.flush().unwrap();
        let position = writer.position();
        log_steps(&mut writer, 5..8);
        drop(writer);
        for name in [LINES, EVENTS] {
            let mut file = File::options().append(true).open(killed.path().join(name)).unwrap();
            file.write_all(br#"{"step":8,"epo"#).unwrap();
        }
        let mut writer = MetricsWriter::resume_at(killed.path(), &position).unwrap();
        log_steps(&mut writer, 5..12);

        let read = |folder: &tempfile::TempDir, name| fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read(&killed, LINES), read(&whole, LINES));
        let steps = |bytes: &[u8]| events::tests::read(bytes).into_iter().map(|e| (e.step, e.values)).collect::<Vec<_>>();
        assert_eq!(steps(&read(&killed, EVENTS)), steps(&read(&whole, EVENTS)));
        assert_eq!(writer.position(), Position { lines: 12, events: read(&whole, EVENTS).len() as u64 });
    }

    #[test]
    fn a_position_survives_its_json() {
        let position = Position { lines: 12, events: 1 << 40 };
        let json = serde_json::to_string(&position).unwrap();
        assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), position);
    }

    #[test]
    fn a_missing_or_shorter_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::create(folder.path()).unwrap();
        log_steps(&mut writer, 0..3);
        let position = writer.position();
        drop(writer);
        let reports = |what: &str| {
            let error = MetricsWriter::resume_at(folder.path(), &position).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("--overwrite") && !error.contains('\n'), "{error}");
        };
        let lines = folder.path().join(LINES);
        fs::write(&lines, b"short").unwrap();
        reports("has 0 complete lines, but the checkpoint expects 3");
        assert_eq!(fs::read(&lines).unwrap(), b"short", "the file is unchanged");
        fs::remove_file(&lines).unwrap();
        reports("cannot be opened");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_of_one_line() {
        let path = PathBuf::from("/dev/full");
        let file = File::options().write(true).open(&path).unwrap();
        let error = Output { path, file, length: 0 }.write(b"x").unwrap_err().to_string();
        assert!(error.starts_with("/dev/full: cannot be written: "), "{error}");
        assert!(error.ends_with("free some space and run the same command again"), "{error}");
    }
}
