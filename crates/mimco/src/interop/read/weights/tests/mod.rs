//! Tests of the readers: files of PyTorch, and hostile files.

mod hostile;
mod whole;

use super::Weights;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch").join(name)
}

fn open(bytes: &[u8]) -> Result<Weights, String> {
    Weights::from_source(Path::new("a file"), Cursor::new(bytes.to_vec())).map_err(|e| e.to_string())
}

/// Opens a file and reads every tensor. Returns whether all of that succeeded.
fn read_all(bytes: &[u8]) -> bool {
    match open(bytes) {
        Ok(weights) => weights.tensors.keys().filter(|name| weights.read(name).is_ok()).count() == weights.tensors.len(),
        Err(message) => {
            assert!(!message.contains('\n') && message.len() < 400, "{message}");
            false
        }
    }
}

/// Returns the error about a file that must not open.
fn refusal(bytes: &[u8]) -> String {
    assert!(!read_all(bytes));
    open(bytes).err().expect("the file opens")
}

/// Makes a file of the new format.
fn zip_of(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add("data.pkl", pickle);
    add("byteorder", b"little");
    storages.iter().for_each(|(key, bytes)| add(&format!("data/{key}"), bytes));
    zip.finish().unwrap().into_inner()
}

/// Makes a file of the old format.
fn old_of(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}".to_vec();
    file.extend([&text("little_endian")[..], b"\x88s.", pickle, b"\x80\x02]("].concat());
    storages.iter().for_each(|(key, _)| file.extend(text(key)));
    file.extend(b"e.");
    for (_, bytes) in storages {
        file.extend((bytes.len() as u64 / 4).to_le_bytes());
        file.extend(*bytes);
    }
    file
}

fn safetensors_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Returns instructions that push a text.
fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Returns instructions that push a tuple of integers.
fn ints(values: &[i64]) -> Vec<u8> {
    let values = values.iter().map(|v| [b"\x8a\x08", &v.to_le_bytes()[..]].concat());
    [b"(".to_vec(), values.collect::<Vec<_>>().concat(), b"t".to_vec()].concat()
}

/// Returns instructions that push a tensor of f32.
fn tensor(key: &str, stored: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let number = |v: i64| [b"\x8a\x08", &v.to_le_bytes()[..]].concat();
    let storage = [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text(key), &text("cpu"), &number(stored), b"tQ"].concat();
    let head = [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], &number(offset)].concat();
    [&head[..], &ints(shape), &ints(strides), b"\x89ccollections\nOrderedDict\n)RtR"].concat()
}

/// Makes a pickle of a dict with these names and instructions for their values.
fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries = entries.iter().map(|(key, value)| [text(key), value.clone()].concat());
    [b"\x80\x02}(".to_vec(), entries.collect::<Vec<_>>().concat(), b"u.".to_vec()].concat()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
