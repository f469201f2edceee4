//! Safetensors files: read with the crate's checks, written in an order that does not change from run to run.

use crate::{Error, files};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

/// A tensor as single precision, whatever it was stored in.
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements, row by row.
    pub data: Vec<f32>,
}

/// A whole file.
pub struct File {
    /// By name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Free text by key.
    pub metadata: BTreeMap<String, String>,
}

/// Reads all tensors of a file that are numbers (integers are left out).
///
/// # Errors
/// A file that is missing, cut short or something else.
pub fn read(path: &Path) -> Result<File, Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot be read: {e}; check the path")))?;
    let (_, head) = SafeTensors::read_metadata(&bytes).map_err(|e| not_safetensors(path, e))?;
    let metadata = head.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    let file = SafeTensors::deserialize(&bytes).map_err(|e| not_safetensors(path, e))?;
    let tensors = file.iter().filter_map(|(name, view)| {
        let data = numbers(view.dtype(), view.data())?;
        Some((name.to_string(), Tensor { shape: view.shape().to_vec(), data }))
    });
    Ok(File { tensors: tensors.collect(), metadata })
}

/// Reads a file's metadata alone.
///
/// # Errors
/// As [`read`].
pub fn read_metadata(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    /// The format's own limit of a header.
    const LARGEST: u64 = 100_000_000;
    let mut file = std::fs::File::open(path).map_err(|e| Error::file(path, format!("cannot be read: {e}; check the path")))?;
    let mut head = [0; 8];
    file.read_exact(&mut head).map_err(|e| not_safetensors(path, e))?;
    let length = u64::from_le_bytes(head);
    let mut json = Vec::new();
    file.take(length.min(LARGEST)).read_to_end(&mut json).map_err(|e| not_safetensors(path, e))?;
    let all: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&json).map_err(|e| not_safetensors(path, e))?;
    let metadata = all.get("__metadata__").cloned().unwrap_or_default();
    Ok(serde_json::from_value(metadata).unwrap_or_default())
}

fn not_safetensors(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::file(path, format!("is not a whole safetensors file ({why})"))
}

fn numbers(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::F64 => bytes.chunks_exact(8).map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32).collect(),
        _ => return None,
    })
}

#[derive(Serialize)]
struct Entry<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: [usize; 2],
}

/// Writes tensors as F32, whole or not at all. Own code for the header: the crate writes metadata in random order, and the same run must give
/// the same bytes.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_f32(path: &Path, tensors: &[(String, Vec<usize>, &[f32])], metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    let mut header = BTreeMap::new();
    let mut end = 0;
    for (name, shape, data) in tensors {
        let start = end;
        end += 4 * data.len();
        header.insert(name.as_str(), serde_json::to_value(Entry { dtype: "F32", shape, data_offsets: [start, end] }));
    }
    header.insert("__metadata__", serde_json::to_value(metadata));
    let header: Result<BTreeMap<_, _>, _> = header.into_iter().map(|(name, value)| value.map(|v| (name, v))).collect();
    let mut json = header.and_then(|h| serde_json::to_vec(&h)).map_err(|e| Error::file(path, e))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    files::write_atomically_with(path, |out| {
        out.write_all(&(json.len() as u64).to_le_bytes())?;
        out.write_all(&json)?;
        tensors.iter().try_for_each(|(_, _, data)| write_numbers(out, data))
    })
}

fn write_numbers(out: &mut (dyn Write + Send), data: &[f32]) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(4 * 4096);
    for part in data.chunks(4096) {
        bytes.clear();
        part.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_by_the_crate_and_always_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let (a, b) = (vec![1.0f32, -2.5, 3.0], vec![0.5f32; 5000]);
        let tensors = [("z".to_string(), vec![3, 1], &a[..]), ("b".to_string(), vec![5000], &b[..])];
        let metadata: BTreeMap<String, String> = (0..9).map(|i| (format!("key{i}"), format!("a \"text\" {i}"))).collect();
        write_f32(&path, &tensors, &metadata).unwrap();
        let first = std::fs::read(&path).unwrap();
        write_f32(&path, &tensors, &metadata).unwrap();
        assert_eq!(first, std::fs::read(&path).unwrap());
        let file = read(&path).unwrap();
        assert_eq!(file.metadata, metadata);
        assert_eq!(read_metadata(&path).unwrap(), metadata);
        assert_eq!((file.tensors["z"].shape.clone(), file.tensors["z"].data.clone()), (vec![3, 1], a.clone()));
        assert_eq!(file.tensors["b"].data, b);
    }

    #[test]
    fn halves_and_doubles_are_widened_and_integers_left_out() {
        use safetensors::tensor::TensorView;
        let halves: Vec<u8> = [1.5f32, -0.25].iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let brains: Vec<u8> = [3.0f32].iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let views = [
            ("h", TensorView::new(Dtype::F16, vec![2], &halves).unwrap()),
            ("b", TensorView::new(Dtype::BF16, vec![1], &brains).unwrap()),
            ("i", TensorView::new(Dtype::I64, vec![1], &[0; 8]).unwrap()),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let file = read(&path).unwrap();
        assert_eq!((file.tensors["h"].data.clone(), file.tensors["b"].data.clone()), (vec![1.5, -0.25], vec![3.0]));
        assert!(!file.tensors.contains_key("i"));
    }

    #[test]
    fn what_is_no_safetensors_file_is_an_error_of_one_line() {
        let folder = tempfile::tempdir().unwrap();
        for (i, bytes) in [&b""[..], b"short", b"PK\x03\x04 a zip file that PyTorch wrote", &[0xff; 64], &[9, 0, 0, 0, 0, 0, 0, 0, b'{']]
            .iter()
            .enumerate()
        {
            let path = folder.path().join(format!("{i}.safetensors"));
            std::fs::write(&path, bytes).unwrap();
            for message in [read(&path).err().unwrap().to_string(), read_metadata(&path).err().unwrap().to_string()] {
                assert!(message.contains("safetensors") && !message.contains('\n'), "{message}");
            }
        }
        assert!(read(&folder.path().join("gone")).err().unwrap().to_string().contains("check the path"));
    }
}
