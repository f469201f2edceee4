//! Export of features to NumPy, safetensors and Parquet files.

use super::features::Features;
use crate::interop::write::safetensors;
use crate::{Error, files};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// Floats in a Parquet row group: 16 MiB, which the writer holds in memory.
const GROUP_VALUES: usize = 4 << 20;
/// Schema with the standard three-level list that pandas, pyarrow and polars read.
const SCHEMA: &str = "message features {
    REQUIRED BYTE_ARRAY file (STRING);
    REQUIRED GROUP feature (LIST) { REPEATED GROUP list { REQUIRED FLOAT element; } }
}";

/// Writes features [rows, width] and the name of each row's image. The file extension selects the
/// format:
///
/// - `.npy`: float32 array [rows, width]. The names are in a text file next to it, with
///   `.names.txt` in place of `.npy`: one name per line, in row order. Backslash, line feed and
///   carriage return in a name are escaped as `\\`, `\n` and `\r`.
/// - `.safetensors`: tensor `features` [rows, width], with the same text file.
/// - `.parquet`: columns `file` (string) and `feature` (list of floats).
///
/// Writes are atomic. The bytes depend only on the features and names.
///
/// # Errors
/// - Another file extension.
/// - A number of names other than the number of rows.
/// - Features that are not finite.
/// - A file that cannot be written.
pub fn write(path: &Path, features: &Features, names: &[String]) -> Result<(), Error> {
    if names.len() != features.rows() {
        return Err(Error::Setting(format!("{} features have {} names; give one name for each feature", features.rows(), names.len())));
    }
    if !features.data().iter().all(|v| v.is_finite()) {
        return Err(Error::Training(
            "the features are not finite: the weights are corrupt or the training diverged; use an earlier checkpoint".into(),
        ));
    }
    let (rows, width) = (features.rows(), features.width());
    match Format::of(path)? {
        Format::Npy => files::write_atomically_with(path, |out| write_npy(out, features))?,
        Format::Safetensors => safetensors::write_f32(path, &[("features".into(), vec![rows, width], features.data())], &BTreeMap::new())?,
        Format::Parquet => {
            return files::write_atomically_with(path, |out| write_parquet(out, features, names).map_err(io::Error::other));
        }
    }
    let lines: String = names.iter().map(|name| escape_name(name) + "\n").collect();
    files::write_atomically(&path.with_extension("names.txt"), lines.as_bytes())
}

/// Checks that features can be written to `path`, before they are computed.
///
/// # Errors
/// An unsupported file extension, or a folder that does not exist.
pub fn check_path(path: &Path) -> Result<(), Error> {
    Format::of(path)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => Err(Error::Setting(format!(
            "{}: the folder {} does not exist; create it, or set another --out",
            path.display(),
            folder.display()
        ))),
        _ => Ok(()),
    }
}

/// Supported file formats.
enum Format {
    Npy,
    Safetensors,
    Parquet,
}

impl Format {
    /// Returns the format of the file extension, in any case.
    fn of(path: &Path) -> Result<Format, Error> {
        match path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default().as_str() {
            "npy" => Ok(Format::Npy),
            "safetensors" => Ok(Format::Safetensors),
            "parquet" => Ok(Format::Parquet),
            _ => Err(Error::Setting(format!(
                "{}: unknown format for features; use a file name that ends in .npy, .safetensors or .parquet",
                path.display()
            ))),
        }
    }
}

/// Writes NumPy's format, version 1.0: magic, header length, header text, then the values. Spaces
/// pad the header to a multiple of 64 bytes.
fn write_npy(out: &mut dyn Write, features: &Features) -> io::Result<()> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", features.rows(), features.width());
    let length = 10 + header.len() + 1; // magic, version and length before it, a line feed after it
    header.extend(std::iter::repeat_n(' ', length.next_multiple_of(64) - length));
    header.push('\n');
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    features.data().iter().try_for_each(|v| out.write_all(&v.to_le_bytes()))
}

/// Writes columns `file` and `feature`, one row per feature.
fn write_parquet(out: &mut (dyn Write + Send), features: &Features, names: &[String]) -> Result<(), ParquetError> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    // Feature values rarely repeat and are not filtered on: no dictionary, no statistics.
    let properties = WriterProperties::builder().set_dictionary_enabled(false).set_statistics_enabled(EnabledStatistics::None).build();
    let mut writer = SerializedFileWriter::new(out, schema, Arc::new(properties))?;
    let width = features.width();
    let group_rows = (GROUP_VALUES / width.max(1)).max(1);
    for (names, data) in names.chunks(group_rows).zip(features.data().chunks(group_rows * width)) {
        let mut group = writer.next_row_group()?;
        if let Some(mut column) = group.next_column()? {
            let values: Vec<ByteArray> = names.iter().map(|name| ByteArray::from(name.as_bytes().to_vec())).collect();
            column.typed::<ByteArrayType>().write_batch(&values, None, None)?;
            column.close()?;
        }
        if let Some(mut column) = group.next_column()? {
            let defined = vec![1i16; data.len()]; // every element is present
            let repeated: Vec<i16> = (0..data.len()).map(|i| (i % width != 0) as i16).collect(); // 0 starts the list of a row
            column.typed::<FloatType>().write_batch(data, Some(&defined), Some(&repeated))?;
            column.close()?;
        }
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

/// Escapes backslashes and line breaks, so that a name takes one line.
fn escape_name(name: &str) -> String {
    name.replace('\\', r"\\").replace('\n', r"\n").replace('\r', r"\r")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::safetensors::SafeTensors;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    fn sample() -> (Features, Vec<String>) {
        let names = ["a/1.png", "b\n2.png", "c\\3.png"].map(String::from).to_vec();
        (Features::new(2, vec![1.0, -2.5, 0.0, 3.25, f32::MIN_POSITIVE, 1e30]), names)
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    #[test]
    fn npy_has_a_header_of_whole_lines_and_little_endian_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.npy");
        let (features, names) = sample();
        write(&path, &features, &names).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
        let end = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
        assert_eq!((end % 64, bytes[end - 1]), (0, b'\n'));
        let header = std::str::from_utf8(&bytes[10..end]).unwrap();
        assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }"), "{header}");
        assert_eq!(floats(&bytes[end..]), features.data());
        let text = std::fs::read_to_string(folder.path().join("out.names.txt")).unwrap();
        assert_eq!(text, "a/1.png\nb\\n2.png\nc\\\\3.png\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2); // no temporary file is left
    }

    #[test]
    fn safetensors_is_read_by_its_crate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.safetensors");
        let (features, names) = sample();
        write(&path, &features, &names).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor("features").unwrap();
        assert_eq!((tensor.shape(), floats(tensor.data())), (&[3, 2][..], features.data().to_vec()));
        assert!(folder.path().join("out.names.txt").is_file());
    }

    #[test]
    fn parquet_round_trips_over_pages_and_groups() {
        let folder = tempfile::tempdir().unwrap();
        let (width, rows) = (1024, GROUP_VALUES / 1024 + 3);
        let features = Features::new(width, (0..rows * width).map(|i| i as f32).collect());
        let names: Vec<String> = (0..rows).map(|i| format!("{i}\n")).collect();
        let path = folder.path().join("out.parquet");
        write(&path, &features, &names).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.metadata().num_row_groups(), 2);
        let mut count = 0;
        // Checks the first row, rows at a page boundary and rows on both sides of the group
        // boundary. Converting every row is slow.
        for (row, record) in reader.get_row_iter(None).unwrap().enumerate() {
            count += 1;
            if [0, 255, 256, rows - 4, rows - 3, rows - 1].contains(&row) {
                let record = record.unwrap();
                let list = record.get_list(1).unwrap();
                let got: Vec<f32> =
                    list.elements().iter().map(|v| if let parquet::record::Field::Float(v) = v { *v } else { f32::NAN }).collect();
                assert_eq!((record.get_string(0).unwrap(), &got[..]), (&names[row], features.row(row)));
            }
        }
        assert_eq!(count, rows);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_that_cannot_be_written_are_errors() {
        let (features, names) = sample();
        for name in ["out.csv", "out"] {
            let error = write(Path::new(name), &features, &names).unwrap_err();
            assert!(error.is_misuse() && error.to_string().contains(".parquet"), "{error}");
        }
        assert!(write(Path::new("out.npy"), &features, &names[1..]).unwrap_err().to_string().contains("2 names"));
        let error = write(Path::new("/nowhere/at/all/out.npy"), &features, &names).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all/out.npy: cannot be written"), "{error}");
    }
}
