//! Files of features for other tools: NumPy, safetensors, Parquet.

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

/// Numbers of a Parquet row group: what one of them holds in memory while it is written, 16 MiB.
const GROUP_NUMBERS: usize = 4 << 20;
/// A list of floats as pandas, pyarrow and polars know it: three levels, the standard's names.
const SCHEMA: &str = "message features {
    REQUIRED BYTE_ARRAY file (STRING);
    REQUIRED GROUP feature (LIST) { REPEATED GROUP list { REQUIRED FLOAT element; } }
}";

/// Writes features [rows, width] and the name of each row's image, by the path's ending:
///
/// - `.npy`: a float32 array [rows, width]; names beside it in a text file, `.names.txt` in place of `.npy`, one a line in the same order
///   (backslash, line feed and carriage return in a name as `\\`, `\n`, `\r`).
/// - `.safetensors`: the same as tensor `features`, with the same text file.
/// - `.parquet`: columns `file` (string) and `feature` (list of floats).
///
/// A file appears whole or not at all, and its bytes follow from the features and names alone.
///
/// # Errors
/// Another ending, another number of names than rows, a place that cannot be written.
pub fn write(path: &Path, features: &Features, names: &[String]) -> Result<(), Error> {
    if names.len() != features.rows() {
        return Err(Error::Setting(format!("{} features with {} names; give one name for each", features.rows(), names.len())));
    }
    if !features.data().iter().all(|v| v.is_finite()) {
        return Err(Error::Training(
            "the features are not finite; the weights are damaged or their training diverged: use an earlier checkpoint".into(),
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
    let lines: String = names.iter().map(|name| escaped(name) + "\n").collect();
    files::write_atomically(&path.with_extension("names.txt"), lines.as_bytes())
}

/// Whether features can be written there, to be asked before they are computed.
///
/// # Errors
/// Another ending than the three, or a folder that is not there.
pub fn check_path(path: &Path) -> Result<(), Error> {
    Format::of(path)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(Error::Setting(format!("{}: the folder {} is not there; make it, or give another --out", path.display(), folder.display())))
        }
        _ => Ok(()),
    }
}

enum Format {
    Npy,
    Safetensors,
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Result<Format, Error> {
        match path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default().as_str() {
            "npy" => Ok(Format::Npy),
            "safetensors" => Ok(Format::Safetensors),
            "parquet" => Ok(Format::Parquet),
            _ => Err(Error::Setting(format!(
                "{}: features are written as .npy, .safetensors or .parquet; give a name that ends so",
                path.display()
            ))),
        }
    }
}

/// NumPy's format, version 1.0: magic, length and text of the header, filled up to 64 bytes, then the numbers.
fn write_npy(out: &mut dyn Write, features: &Features) -> io::Result<()> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", features.rows(), features.width());
    let begun = 10 + header.len() + 1; // with magic, version and length before it, a line feed behind it
    header.extend(std::iter::repeat_n(' ', begun.next_multiple_of(64) - begun));
    header.push('\n');
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    features.data().iter().try_for_each(|v| out.write_all(&v.to_le_bytes()))
}

fn write_parquet(out: &mut (dyn Write + Send), features: &Features, names: &[String]) -> Result<(), ParquetError> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    // Floats of features hardly repeat and nobody filters by them: no dictionary, no statistics.
    let properties = WriterProperties::builder().set_dictionary_enabled(false).set_statistics_enabled(EnabledStatistics::None).build();
    let mut writer = SerializedFileWriter::new(out, schema, Arc::new(properties))?;
    let width = features.width();
    let group_rows = (GROUP_NUMBERS / width.max(1)).max(1);
    for (names, data) in names.chunks(group_rows).zip(features.data().chunks(group_rows * width)) {
        let mut group = writer.next_row_group()?;
        if let Some(mut column) = group.next_column()? {
            let values: Vec<ByteArray> = names.iter().map(|name| ByteArray::from(name.as_bytes().to_vec())).collect();
            column.typed::<ByteArrayType>().write_batch(&values, None, None)?;
            column.close()?;
        }
        if let Some(mut column) = group.next_column()? {
            let defined = vec![1i16; data.len()]; // every element is there
            let repeated: Vec<i16> = (0..data.len()).map(|i| (i % width != 0) as i16).collect(); // 0 begins a row's list
            column.typed::<FloatType>().write_batch(data, Some(&defined), Some(&repeated))?;
            column.close()?;
        }
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

fn escaped(name: &str) -> String {
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

    fn numbers(bytes: &[u8]) -> Vec<f32> {
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
        assert_eq!(numbers(&bytes[end..]), features.data());
        let text = std::fs::read_to_string(folder.path().join("out.names.txt")).unwrap();
        assert_eq!(text, "a/1.png\nb\\n2.png\nc\\\\3.png\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2); // nothing temporary is left
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
        assert_eq!((tensor.shape(), numbers(tensor.data())), (&[3, 2][..], features.data().to_vec()));
        assert!(folder.path().join("out.names.txt").is_file());
    }

    #[test]
    fn parquet_comes_back_over_pages_and_groups() {
        let folder = tempfile::tempdir().unwrap();
        let (width, rows) = (1024, GROUP_NUMBERS / 1024 + 3);
        let features = Features::new(width, (0..rows * width).map(|i| i as f32).collect());
        let names: Vec<String> = (0..rows).map(|i| format!("{i}\n")).collect();
        let path = folder.path().join("out.parquet");
        write(&path, &features, &names).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.metadata().num_row_groups(), 2);
        let mut count = 0;
        // Reading rows is slow: these name the first, one at a page's end, and both sides of the groups' border.
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
    fn what_cannot_be_written_is_said() {
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
