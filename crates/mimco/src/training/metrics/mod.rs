//! The figures of a run on disk: `metrics.jsonl`, one JSON object a line, and the same for TensorBoard.
//!
//! Both files are cut back to the lengths that a checkpoint names when a run is taken up, so that the lines of a killed run are not
//! written twice.

mod events;

use crate::Error;
use crate::files::describe;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// One JSON object a line.
pub const LINES: &str = "metrics.jsonl";
/// TensorBoard takes any file with "tfevents" in its name. The usual name has clock and host in it; a fixed one lets a resumed run append.
pub const EVENTS: &str = "events.out.tfevents.0.mimco";

/// How far the metrics files go, for a checkpoint to name. The lines are counted, since figures of speed are now longer, now shorter, and the
/// same run must give the same checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Lines of `metrics.jsonl`.
    pub lines: u64,
    /// Bytes of the TensorBoard file.
    pub events: u64,
}

/// Writes the figures of a run.
pub struct MetricsWriter {
    count: u64,
    lines: Output,
    events: Output,
}

#[derive(Serialize)]
struct Line<'a> {
    step: u64,
    epoch: u64,
    // Sorted by the map; serde_json writes what is not finite as null.
    #[serde(flatten)]
    figures: &'a BTreeMap<String, f64>,
}

impl MetricsWriter {
    /// Begins both files anew.
    pub fn create(folder: &Path) -> Result<MetricsWriter, Error> {
        for name in [LINES, EVENTS] {
            let path = folder.join(name);
            File::create(&path).map_err(|e| unwritten(&path, &e))?;
        }
        MetricsWriter::resume_at(folder, &Position::default())
    }

    /// Goes on at a position, dropping what a killed run wrote after it.
    ///
    /// # Errors
    /// Where a file is missing or shorter than the position.
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

    /// Writes a line of figures to both files.
    pub fn log(&mut self, step: u64, epoch: u64, figures: &BTreeMap<String, f64>) -> Result<(), Error> {
        let mut line = serde_json::to_vec(&Line { step, epoch, figures }).map_err(|e| Error::file(&self.lines.path, e))?;
        line.push(b'\n');
        self.lines.write(&line)?;
        self.count += 1;
        self.events.write(&events::record(&events::scalars(now(), step, figures)))
    }

    /// Brings both files to the disk: to be called before a checkpoint names their position, which must never be ahead of them.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.lines.sync()?;
        self.events.sync()
    }

    /// Where both files stand.
    pub fn position(&self) -> Position {
        Position { lines: self.count, events: self.events.length }
    }
}

/// The last value of a figure in a run's `metrics.jsonl`.
pub fn last_figure(folder: &Path, name: &str) -> Option<f64> {
    let lines = BufReader::new(File::open(folder.join(LINES)).ok()?).lines().map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok()?.get(name)?.as_f64()).last()
}

/// Bytes of the first `count` lines.
fn end_of_line(path: &Path, count: u64) -> Result<u64, Error> {
    let unread = |e: io::Error| {
        Error::file(
            path,
            format!("cannot be opened to resume: {e}; put the file back and make it readable, or use --overwrite to start anew"),
        )
    };
    let mut file = BufReader::new(File::open(path).map_err(unread)?);
    let (mut length, mut line) = (0, Vec::new());
    for done in 0..count {
        line.clear();
        length += file.read_until(b'\n', &mut line).map_err(unread)? as u64;
        if line.last() != Some(&b'\n') {
            return Err(Error::file(
                path,
                format!(
                    "has {done} whole lines where the checkpoint expects {count}; put the whole file back, or use --overwrite to start anew"
                ),
            ));
        }
    }
    Ok(length)
}

/// Seconds since 1970: TensorBoard's relative time axis needs them; `metrics.jsonl`, which must be reproducible, has no clock.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn unwritten(path: &Path, error: &io::Error) -> Error {
    Error::file(path, describe(error))
}

/// A file that only grows. Lines are few, so each goes straight to the system: whoever watches the run sees it at once.
struct Output {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Output {
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
                    "has {found} bytes where the checkpoint expects {length}; put the whole file back, or use --overwrite to start anew"
                ),
            )),
            Err(e) => Err(Error::file(
                &path,
                format!("cannot be opened to resume: {e}; put the file back and make it writable, or use --overwrite to start anew"),
            )),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|e| unwritten(&self.path, &e))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_data().map_err(|e| unwritten(&self.path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn figures(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs.iter().map(|(name, value)| (name.to_string(), *value)).collect()
    }

    fn log_steps(writer: &mut MetricsWriter, steps: std::ops::Range<u64>) {
        for step in steps {
            writer.log(step, step / 4, &figures(&[("train/loss", 1.0 / (step + 1) as f64), ("optim/lr", 1e-4)])).unwrap();
        }
    }

    #[test]
    fn a_line_has_step_and_epoch_then_names_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::create(folder.path()).unwrap();
        writer
            .log(7, 1, &figures(&[("train/loss", 0.5), ("optim/lr", 1e-4), ("health/rankme", f64::NAN), ("a\"b", f64::INFINITY)]))
            .unwrap();
        writer.log(8, 1, &figures(&[])).unwrap();
        let text = fs::read_to_string(folder.path().join(LINES)).unwrap();
        let expected = concat!(
            r#"{"step":7,"epoch":1,"a\"b":null,"health/rankme":null,"optim/lr":0.0001,"train/loss":0.5}"#,
            "\n",
            r#"{"step":8,"epoch":1}"#,
            "\n"
        );
        assert_eq!(text, expected);
        assert_eq!(writer.position().lines, 2);
        assert_eq!((last_figure(folder.path(), "train/loss"), last_figure(folder.path(), "eval/knn_top1")), (Some(0.5), None));
    }

    #[test]
    fn a_resumed_run_leaves_an_undisturbed_runs_files() {
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
    fn a_position_survives_its_checkpoint() {
        let position = Position { lines: 12, events: 1 << 40 };
        let json = serde_json::to_string(&position).unwrap();
        assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), position);
    }

    #[test]
    fn a_missing_or_shorter_file_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::create(folder.path()).unwrap();
        log_steps(&mut writer, 0..3);
        let position = writer.position();
        drop(writer);
        let told = |what: &str| {
            let error = MetricsWriter::resume_at(folder.path(), &position).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("--overwrite") && !error.contains('\n'), "{error}");
        };
        let lines = folder.path().join(LINES);
        fs::write(&lines, b"short").unwrap();
        told("has 0 whole lines where the checkpoint expects 3");
        assert_eq!(fs::read(&lines).unwrap(), b"short", "nothing is changed");
        fs::remove_file(&lines).unwrap();
        told("cannot be opened");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_said_in_one_line() {
        let path = PathBuf::from("/dev/full");
        let file = File::options().write(true).open(&path).unwrap();
        let error = Output { path, file, length: 0 }.write(b"x").unwrap_err().to_string();
        assert!(error.starts_with("/dev/full: cannot be written: "), "{error}");
        assert!(error.ends_with("free some space and run the same command again"), "{error}");
    }
}
