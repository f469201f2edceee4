//! Valid files: their contents, and how much of a file is read for them.

use super::super::{Dtype, Format, Weights};
use super::{dict, fixture, floats, old_of, open, safetensors_of, tensor, text, zip_of};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(serde::Deserialize)]
struct Expected {
    dtype: String,
    shape: Vec<usize>,
    /// Bits of the elements as f32.
    bits: Vec<u32>,
}

fn expected() -> BTreeMap<String, BTreeMap<String, Expected>> {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

#[test]
fn files_of_pytorch_contain_the_tensors_that_were_saved() {
    let files = expected();
    assert_eq!(files.len(), 11);
    for (file, tensors) in files {
        let weights = Weights::open(&fixture(&file)).unwrap();
        assert_eq!(weights.format, if file.contains("old") { Format::TorchOld } else { Format::TorchZip });
        assert!(weights.tensors.keys().eq(tensors.keys()), "{file}: {:?}", weights.tensors.keys());
        for (name, tensor) in tensors {
            let array = &weights.tensors[&name];
            assert_eq!((format!("{:?}", array.dtype), &array.shape), (tensor.dtype, &tensor.shape), "{file}: {name}");
            let bits: Vec<u32> = weights.read(&name).unwrap().iter().map(|v| v.to_bits()).collect();
            assert_eq!(bits, tensor.bits, "{file}: {name}");
        }
    }
}

#[test]
fn values_next_to_the_tensors_are_kept_or_counted() {
    for file in ["checkpoint.pt", "checkpoint_4.pt", "checkpoint_old.pt", "checkpoint_old_4.pt"] {
        let weights = Weights::open(&fixture(file)).unwrap();
        for (name, text) in [
            ("epoch", "3"),
            ("loss", "0.125"),
            ("done", "True"),
            ("arch", "vit_tiny"),
            ("7", "seven"),
            ("args/arch", "vit_small"),
            ("args/depth", "12"),
            ("args/betas/1", "0.95"),
            ("optimizer/param_groups/0/lr", "0.25"),
        ] {
            assert_eq!(weights.texts.get(name).map(String::as_str), Some(text), "{file}: {name}");
        }
        for (what, count) in [("argparse.Namespace", 1), ("torch.Tensor", 1), ("uint16", 1)] {
            assert_eq!(weights.left_out.get(what), Some(&count), "{file}: {what} {:?}", weights.left_out);
        }
        assert!(weights.left_out.keys().any(|class| class.starts_with("numpy.") && class.ends_with("scalar")), "{:?}", weights.left_out);
    }
    let state = Weights::open(&fixture("state.pt")).unwrap();
    assert_eq!(state.left_out, BTreeMap::from([("int64".to_string(), 1), ("bool".to_string(), 1)]));
    assert!(state.texts.is_empty());
    assert_eq!(state.path(), fixture("state.pt"));
    let message = state.read("no\nname").unwrap_err().to_string();
    assert!(message.contains("has no tensor named no\\nname"), "{message}");
}

#[test]
fn safetensors_are_read_with_their_keys_in_any_order() {
    let data = [&floats(&[1.0, -2.0])[..], &[0, 0x3c, 0x80, 0x3f], &2.5f64.to_le_bytes(), &[7; 8]].concat();
    let header = r#"{"d":{"data_offsets":[12,20],"shape":[],"dtype":"F64"},"__metadata__":{"model":"vit \"t\""},
        "a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"h":{"shape":[1],"dtype":"F16","data_offsets":[8,10]},
        "b":{"dtype":"BF16","data_offsets":[10,12],"shape":[1,1]},"none":{"dtype":"F32","shape":[3,0],"data_offsets":[20,20]},
        "i":{"dtype":"I64","shape":[1],"data_offsets":[20,28]}}   "#;
    let weights = open(&safetensors_of(header, &data)).unwrap();
    assert_eq!(weights.format, Format::Safetensors);
    assert_eq!(weights.texts["model"], "vit \"t\"");
    assert_eq!(weights.left_out, BTreeMap::from([("int64".to_string(), 1)]));
    let read = |name: &str| (weights.tensors[name].dtype, weights.tensors[name].shape.clone(), weights.read(name).unwrap());
    assert_eq!(read("a"), (Dtype::F32, vec![2, 1], vec![1.0, -2.0]));
    assert_eq!(read("h"), (Dtype::F16, vec![1], vec![1.0]));
    assert_eq!(read("b"), (Dtype::BF16, vec![1, 1], vec![1.0]));
    assert_eq!(read("d"), (Dtype::F64, vec![], vec![2.5]));
    assert_eq!(read("none"), (Dtype::F32, vec![3, 0], vec![]));
    // A header of 640 bytes begins with the byte that pickles begin with.
    let long = format!("{:640}", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
    assert_eq!(open(&safetensors_of(&long, &floats(&[0.5]))).unwrap().read("a").unwrap(), [0.5]);
}

#[test]
fn pickles_of_python_2_are_read() {
    // An OrderedDict as a list of pairs, with names as byte strings, in quotes and with escapes.
    let w = tensor("0", 1, 0, &[1], &[1]);
    let pickle =
        [b"\x80\x02ccollections\nOrderedDict\n(](]U\x01wa"[..].to_vec(), w.clone(), b"a](S'b\\x20\\\\'\nV\\u00e9'\neetR.".to_vec()]
            .concat();
    for file in [zip_of(&pickle, &[("0", &floats(&[2.0]))]), old_of(&pickle, &[("0", &floats(&[2.0]))])] {
        let weights = open(&file).unwrap();
        assert_eq!(weights.read("w").unwrap(), [2.0]);
        assert_eq!(weights.texts["b \\"], "é'");
    }
}

#[test]
fn protocol_0_is_read_and_memory_is_shared() {
    let pickle = b"(dp0\nS'a'\np1\nI7\nsVb\nL-8L\nsS'c'\nF0.5\nsS't'\nI01\nsS'again'\ng1\nsS'list'\n(lp2\nI1\naI2\nas.";
    let texts = open(&zip_of(pickle, &[])).unwrap().texts;
    let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (&name[..], &text[..])).collect();
    assert_eq!(texts, [("a", "7"), ("again", "a"), ("b", "-8"), ("c", "0.5"), ("list/0", "1"), ("list/1", "2"), ("t", "True")]);
}

#[test]
fn parts_of_storages_in_the_old_format_are_found() {
    let storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("k"), &text("cpu"), b"K\x04(", &text("v"), b"K\x01K\x02ttQ"];
    let part = [b"ctorch._utils\n_rebuild_tensor\n(", &storage.concat()[..], b"K\x01K\x01\x85K\x01\x85tR"].concat();
    let file = old_of(&dict(&[("w", part)]), &[("k", &floats(&[1.0, 2.0, 3.0, 4.0]))]);
    assert_eq!(open(&file).unwrap().read("w").unwrap(), [3.0]);
}

/// Reader that counts the bytes read through it.
struct Counted(Cursor<Vec<u8>>, Arc<AtomicU64>);

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(into)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Seek for Counted {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn opening_reads_no_tensor_and_reading_one_reads_no_other() {
    const LARGE: usize = 1 << 20;
    let numbers: Vec<f32> = (0..LARGE).map(|i| i as f32).collect();
    let (large, small) = (floats(&numbers), floats(&[3.0, 4.0]));
    let pickle = dict(&[
        ("large", tensor("0", LARGE as i64, 0, &[LARGE as i64], &[1])),
        ("turned", tensor("0", LARGE as i64, 0, &[1 << 10, 1 << 10], &[1, 1 << 10])),
        ("small", tensor("1", 2, 0, &[2], &[1])),
    ]);
    let storages = [("0", &large[..]), ("1", &small[..])];
    let header = r#"{"large":{"dtype":"F32","shape":[1048576],"data_offsets":[0,4194304]},
        "small":{"dtype":"F32","shape":[2],"data_offsets":[4194304,4194312]}}"#;
    for file in [zip_of(&pickle, &storages), old_of(&pickle, &storages), safetensors_of(header, &[&large[..], &small].concat())] {
        let read = Arc::new(AtomicU64::new(0));
        let weights = Weights::from_source(Path::new("a file"), Counted(Cursor::new(file), read.clone())).unwrap();
        assert!(read.swap(0, Ordering::Relaxed) < 150_000);
        assert_eq!(weights.read("small").unwrap(), [3.0, 4.0]);
        assert_eq!(read.swap(0, Ordering::Relaxed), 8);
        assert_eq!(weights.read("large").unwrap(), numbers);
        assert_eq!(read.swap(0, Ordering::Relaxed), 4 << 20);
        if weights.format != Format::Safetensors {
            let turned = weights.read("turned").unwrap();
            assert!(turned.iter().enumerate().all(|(i, v)| *v == ((i % 1024) * 1024 + i / 1024) as f32));
        }
    }
}
