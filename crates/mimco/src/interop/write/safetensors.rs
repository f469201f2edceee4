//! Writing of safetensors files that are reproducible to the byte.

use crate::{Error, files};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Tensor to write: name, shape and elements, row by row.
pub type NamedTensor<'a> = (String, Vec<usize>, &'a [f32]);

#[derive(Serialize)]
struct Entry<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: [usize; 2],
}

/// Writes tensors as F32, atomically. The header is own code:
/// the `safetensors` crate writes metadata in random order, which would change the bytes.
///
/// # Errors
/// A file that cannot be written.
pub fn write_f32(path: &Path, tensors: &[NamedTensor<'_>], metadata: &BTreeMap<String, String>) -> Result<(), Error> {
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
        tensors.iter().try_for_each(|(_, _, data)| write_elements(out, data))
    })
}

fn write_elements(out: &mut (dyn Write + Send), data: &[f32]) -> std::io::Result<()> {
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
    use ::safetensors::SafeTensors;

    #[test]
    fn the_safetensors_crate_reads_what_is_written_and_the_bytes_never_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let (a, b) = (vec![1.0f32, -2.5, 3.0], vec![0.5f32; 5000]);
        let tensors = [("z".to_string(), vec![3, 1], &a[..]), ("b".to_string(), vec![5000], &b[..])];
        let metadata: BTreeMap<String, String> = (0..9).map(|i| (format!("key{i}"), format!("a \"text\" {i}"))).collect();
        write_f32(&path, &tensors, &metadata).unwrap();
        let first = std::fs::read(&path).unwrap();
        write_f32(&path, &tensors, &metadata).unwrap();
        assert_eq!(first, std::fs::read(&path).unwrap());
        let bytes = std::fs::read(&path).unwrap();
        let (_, head) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(head.metadata().clone().unwrap().into_iter().collect::<BTreeMap<_, _>>(), metadata);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let values = |name| file.tensor(name).unwrap().data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!((file.tensor("z").unwrap().shape(), values("z")), (&[3, 1][..], a));
        assert_eq!((file.tensor("b").unwrap().shape(), values("b")), (&[5000][..], b));
    }
}
