//! Hostile and damaged files: each is an error of one line, without a panic or a large allocation.

use super::super::Weights;
use super::{dict, fixture, floats, ints, old_of, open, read_all, refusal, safetensors_of, tensor, text, zip_of};
use std::path::Path;
use std::time::{Duration, Instant};

const SAFETENSORS: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"I8","shape":[1],"data_offsets":[8,9]},"__metadata__":{"k":"v"}}"#;

fn whole_files() -> Vec<Vec<u8>> {
    let names =
        ["small.pt", "small_old.pt", "state.pt", "state_old.pt", "checkpoint.pt", "checkpoint_old_4.pt", "module_old.pt", "script.pt"];
    let mut files: Vec<Vec<u8>> = names.iter().map(|name| std::fs::read(fixture(name)).unwrap()).collect();
    files.push(safetensors_of(SAFETENSORS, &[1; 9]));
    files
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for file in whole_files() {
        (0..file.len()).for_each(|length| assert!(!read_all(&file[..length]), "cut to {length}"));
    }
}

#[test]
fn no_changed_byte_causes_a_panic() {
    for file in whole_files().into_iter().filter(|file| file.len() < 2000) {
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 0xff;
            read_all(&changed);
        }
    }
}

#[test]
fn nothing_that_a_pickle_names_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let touched = folder.path().join("touched");
    let command = text(&format!("touch {}", touched.display()));
    let calls = [
        [b"cos\nsystem\n", &command[..], b"\x85R"].concat(),
        [b"cposix\nsystem\n(", &command[..], b"tR"].concat(),
        [b"(cos\nsystem\n", &command[..], b"o"].concat(),
        [b"(", &command[..], b"ios\nsystem\n"].concat(),
        [b"\x8c\x02os\x8c\x06system\x93", &command[..], b"\x85R"].concat(),
        [b"cbuiltins\ngetattr\n(cos\nsystem\nU\x08__call__tR", &command[..], b"\x85R"].concat(),
        [b"cos\nsystem\n", &command[..], b"\x85\x81}(U\x01xK\x01ub"].concat(),
    ];
    for call in calls {
        let pickle = dict(&[("evil", call.clone()), ("w", tensor("0", 1, 0, &[1], &[1]))]);
        for file in [zip_of(&pickle, &[("0", &floats(&[5.0]))]), old_of(&pickle, &[("0", &floats(&[5.0]))])] {
            let weights = open(&file).unwrap();
            assert_eq!(weights.read("w").unwrap(), [5.0]);
            assert_eq!(weights.left_out.len(), 1);
        }
        let message = refusal(&zip_of(&dict(&[("evil", call)]), &[]));
        assert!(message.contains("contains a pickled object of class") && message.contains("state_dict"), "{message}");
    }
    assert!(!touched.exists());
}

#[test]
fn inconsistent_safetensors_headers_are_errors() {
    let file = |header: &str, data: usize| safetensors_of(header, &vec![0; data]);
    let one =
        |dtype: &str, shape: &str, offsets: &str| format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
    let twice = one("F32", "[1]", "[0,4]").replace("}}", "},") + &one("F32", "[1]", "[0,4]")[1..];
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let many = format!("[{}1]", "1,".repeat(64));
    let sixty = [&(1u64 << 60).to_le_bytes()[..], b"{}"].concat();
    for (file, why) in [
        (sixty, "larger than 100 MB"),
        ([&100_000_000u64.to_le_bytes()[..], b"{}"].concat(), "ends too early"),
        (file(&deep, 0), "header"),
        (file(&one("F32", "[1]", "[0,4]"), 5), "belong to no tensor"),
        (file(&one("F32", "[1]", "[0,4]"), 3), "ends too early"),
        (file(&one("F32", "[1]", "[1,5]"), 5), "does not begin at the end"),
        (file(&one("F32", "[1]", "[4,0]"), 4), "does not begin at the end"),
        (file(&one("F32", "[2]", "[0,4]"), 4), "shape and type"),
        (file(&one("F32", "[9223372036854775807,4]", "[0,4]"), 4), "shape and type"),
        (file(&one("F32", "[9223372036854775807,9223372036854775807,0]", "[0,0]"), 0), "shape and type"),
        (file(&one("F32", "[-1]", "[0,4]"), 4), "header"),
        (file(&one("F32", "[1]", "[0,18446744073709551615]"), 4), "ends too early"),
        (file(&one("F32", "[1]", "[0,18446744073709551616]"), 4), "header"),
        (file(&one("F32", &many, "[0,4]"), 4), "64 sizes"),
        (file(r#"{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}"#, 4), "duplicate"),
        (file(&twice, 4), "two tensors named a"),
        (file(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0), "two texts under the key k"),
        (file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "two entries"),
    ] {
        let message = refusal(&file);
        assert!(message.contains("safetensors file (") && message.contains(why), "{why}: {message}");
    }
    let overlapping = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#;
    assert!(refusal(&file(overlapping, 6)).contains("tensor b does not begin"));
}

#[test]
fn tensors_that_are_not_in_their_storage_are_errors() {
    let wrong = |why: &str, w: Vec<u8>| {
        let pickle = dict(&[("w", w)]);
        for file in [zip_of(&pickle, &[("0", &[0; 16])]), old_of(&pickle, &[("0", &[0; 16])])] {
            let message = refusal(&file);
            assert!(message.contains("PyTorch file (") && message.contains(why), "{why}: {message}");
        }
    };
    let beyond = "tensor w reaches beyond its storage";
    wrong(beyond, tensor("0", 4, 0, &[5], &[1]));
    wrong(beyond, tensor("0", 4, 1, &[2, 2], &[2, 1]));
    wrong(beyond, tensor("0", 4, 4, &[1], &[1]));
    wrong(beyond, tensor("0", 4, i64::MAX, &[1], &[1]));
    wrong(beyond, tensor("0", 4, 0, &[2, 2], &[i64::MAX, i64::MAX]));
    wrong("tensor w has more elements than it stores", tensor("0", 4, 0, &[5], &[0]));
    wrong("tensor w has more elements than can be counted", tensor("0", 4, 0, &[i64::MAX, 3], &[0, 0]));
    wrong("tensor w has more elements than can be counted", tensor("0", 4, 0, &[i64::MAX, 3, 0], &[0, 0, 0]));
    wrong("tensor w has invalid sizes", tensor("0", 4, -1, &[1], &[1]));
    wrong("tensor w has invalid sizes", tensor("0", 4, 0, &[-1], &[1]));
    wrong("tensor w has invalid sizes", tensor("0", 4, 0, &[2], &[-1]));
    wrong("tensor w has invalid sizes", tensor("0", 4, 0, &[1; 65], &[1; 65]));
    wrong("tensor w has another number of strides", tensor("0", 4, 0, &[2], &[]));
    wrong("storage", tensor("0", -4, 0, &[1], &[1]));
    wrong("storage", tensor("0", 1 << 62, 0, &[1], &[1]));
    wrong("storage", tensor("0", 5, 0, &[1], &[1]));
    wrong("its storage", tensor("1", 4, 0, &[1], &[1]));
    let message = Weights::open(&fixture("expanded.pt")).err().unwrap().to_string();
    assert!(message.contains("tensor tensor has more elements than it stores"), "{message}");
    // A stride of a size of 1 and the offset of an empty tensor are arbitrary.
    let pickle = dict(&[("w", tensor("0", 4, 3, &[1, 1], &[i64::MAX, i64::MAX])), ("none", tensor("0", 4, i64::MAX, &[2, 0], &[9, 9]))]);
    let weights = open(&zip_of(&pickle, &[("0", &floats(&[0.0, 0.0, 0.0, 8.0]))])).unwrap();
    assert_eq!((weights.read("w").unwrap(), weights.read("none").unwrap()), (vec![8.0], vec![]));
}

#[test]
fn a_tensor_with_a_changed_shape_is_checked_again() {
    let pickle = dict(&[("w", tensor("0", 4, 0, &[1, 4], &[9, 1]))]);
    let mut weights = open(&zip_of(&pickle, &[("0", &[0; 16])])).unwrap();
    for shape in [vec![5], vec![1, 5], vec![2, 4], vec![usize::MAX, usize::MAX], vec![]] {
        weights.tensors.get_mut("w").unwrap().shape = shape;
        assert!(weights.read("w").unwrap_err().to_string().contains("tensor w cannot be read"));
    }
}

#[test]
fn duplicate_names_are_errors() {
    let w = || tensor("0", 1, 0, &[1], &[1]);
    let twice = dict(&[("w", w()), ("w", w())]);
    assert!(refusal(&zip_of(&twice, &[("0", &[0; 4])])).contains("has two tensors named w;"));
    let joined = dict(&[("a/w", w()), ("a", [b"}", &text("w")[..], &w(), b"s"].concat())]);
    assert!(refusal(&old_of(&joined, &[("0", &[0; 4])])).contains("has two tensors named a/w;"));
    // Zip archives: the second storage gets the name of the first after the writer is done.
    let mut file = zip_of(&dict(&[("w", w())]), &[("0", &[0; 4]), ("1", &[0; 4])]);
    let places: Vec<usize> = file.windows(6).enumerate().filter(|(_, name)| name == b"data/1").map(|(at, _)| at).collect();
    assert_eq!(places.len(), 2);
    places.iter().for_each(|at| file[at + 5] = b'0');
    assert!(refusal(&file).contains("two entries of one name"));
}

#[test]
fn containers_in_containers_cost_little() {
    let begun = Instant::now();
    let laughs = |w: &[u8]| {
        let level = |i: u8| [b"(", &[b'h', i].repeat(10)[..], b"lq", &[i + 1]].concat();
        [w, b"q\x00", &(0..12).flat_map(level).collect::<Vec<_>>(), b"."].concat()
    };
    let nested = |open: &[u8], close: &[u8], depth: usize| [&open.repeat(depth)[..], b"N", &close.repeat(depth), b"."].concat();
    for pickle in [
        laughs(&text(&"ha".repeat(1000))),
        laughs(&tensor("0", 1, 0, &[1], &[1])),
        laughs(b"K\x01"),
        nested(b"]", b"a", 1_000_000),
        nested(b"(", b"t", 100_000),
        nested(b"", b"\x85", 100_000),
        nested(b"}K\x01", b"s", 100_000),
        [&b"cA\nB\n"[..], &b")R".repeat(100_000), b"."].concat(),
        [&b"cA\nB\n)R"[..], &b"2b".repeat(100_000), b"."].concat(),
        // Many dicts of the same long list of pairs, as Python 2 writes them.
        [b"NN\x86q\x00](", &b"h\x00".repeat(100_000)[..], b"eq\x01(", &b"ccollections\nOrderedDict\nh\x01\x85R".repeat(1000), b"l."]
            .concat(),
    ] {
        if let Ok(weights) = open(&zip_of(&pickle, &[("0", &[0; 4])])) {
            assert!(weights.tensors.is_empty() && weights.texts.len() < 100, "{}", weights.texts.len());
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // A dict that contains itself and a tensor.
    let cyclic = [b"\x80\x02}q\x00(", &text("self")[..], b"h\x00", &text("w"), &tensor("0", 1, 0, &[1], &[1]), b"u."].concat();
    let weights = open(&zip_of(&cyclic, &[("0", &[0; 4])])).unwrap();
    assert!(weights.tensors.keys().eq(["w"]) && weights.left_out["containers that contain themselves"] == 1);
}

#[test]
fn invalid_pickles_are_errors() {
    let long = text(&"k".repeat(600));
    for (pickle, why) in [
        (&b"\x8b\xff\xff\xff\x7f."[..], "ends too early"),
        (b"\x8a\xff.", "ends too early"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "ends too early"),
        (b"B\xff\xff\xff\xff.", "ends too early"),
        (b"\x8e\0\0\0\0\0\0\0\x10.", "ends too early"),
        (b"\x95\0\0\0\0\0\0\0\x10N.", "ends too early"),
        (b"cos\nsystem", "ends too early"),
        (b".", "missing"),
        (b"(K\x01.\n", ""),
        (b"(.", "missing"),
        (b"0.", "missing"),
        (b"N(0b.", "missing"),
        (b"t.", "no beginning"),
        (b"}(Nu.", "has no value"),
        (b"NNa.", "not a list"),
        (b"NNNs.", "not a dict"),
        (b"h\x07.", "before it is stored"),
        (b"gx\n.", "an invalid number"),
        (b"Ix\n.", "an integer is invalid"),
        (b"Fx\n.", "a number is invalid"),
        (b"N)R.", "not a class"),
        (b"(o.", "no function"),
        (b"NN\x93.", "has no name"),
        (b"\x82\x01.", "extensions"),
        (b"\x97.", "buffers"),
        (b"\x80\x06N.", "protocol 6"),
        (b"\xff.", "0xff"),
    ] {
        if !why.is_empty() {
            let message = refusal(&zip_of(pickle, &[]));
            assert!(message.contains("PyTorch file (") && message.contains(why), "{pickle:?}: {message}");
        }
        assert!(!read_all(&old_of(pickle, &[])), "{pickle:?}");
    }
    let odd = [b"}(", &long[..], b"K\x01NNX\x01\0\0\0aK\x02u."].concat();
    let weights = open(&zip_of(&odd, &[])).unwrap();
    assert_eq!((weights.texts.len(), weights.left_out["entries of dicts whose keys are not names"]), (1, 2));
    let sizes = [&b"}X\x01\0\0\0sctorch\nSize\n"[..], &ints(&[3, 4]), b"\x85Rs."].concat();
    assert_eq!(open(&zip_of(&sizes, &[])).unwrap().texts["s/1"], "4");
}

#[test]
fn inconsistent_archives_are_errors() {
    let file = zip_of(&dict(&[("w", tensor("0", 1, 0, &[1], &[1]))]), &[("0", &[0; 4])]);
    assert!(read_all(&file));
    let central: Vec<usize> = file.windows(4).enumerate().filter(|(_, sign)| sign == b"PK\x01\x02").map(|(at, _)| at).collect();
    let with = |changes: &[(usize, &[u8])]| {
        let mut changed = file.clone();
        changes.iter().for_each(|(at, bytes)| changed[*at..at + bytes.len()].copy_from_slice(bytes));
        changed
    };
    let large = [0xf0, 0xff, 0xff, 0x7f];
    let storage = central[2];
    for changed in [
        with(&[(storage + 20, &large)]), // sizes
        with(&[(storage + 20, &large), (storage + 24, &large)]),
        with(&[(storage + 42, &large)]), // where its header is
        with(&[(storage, b"none")]),
        with(&[(file.len() - 12, &[0xff; 4])]), // the directory's sizes
        with(&[(file.len() - 14, &[0xfe; 4])]),
        with(&[(file.len() - 6, &large)]),
        with(&[(storage + 46 + 8 + 5, b"9")]), // its name
    ] {
        let message = refusal(&changed);
        assert!(message.contains("PyTorch file ("), "{message}");
    }
    for at in &central {
        assert!(refusal(&with(&[(at + 10, &[8])])).contains("save it again with torch.save"));
    }
    // The 64-bit directory that PyTorch writes: counts, sizes and offsets of 2^60.
    let file = std::fs::read(fixture("small.pt")).unwrap();
    let end = file.windows(4).position(|sign| sign == b"PK\x06\x06").unwrap();
    for at in (end + 4..file.len() - 22).step_by(4) {
        let mut changed = file.clone();
        changed[at..at + 8].copy_from_slice(&(1u64 << 60).to_le_bytes());
        read_all(&changed);
    }
    let big = std::fs::read(fixture("small.pt")).unwrap();
    let at = big.windows(6).position(|word| word == b"little").unwrap();
    let mut changed = big.clone();
    changed[at..at + 6].copy_from_slice(b"big\0\0\0");
    assert!(refusal(&changed).contains("big-endian"));
}

#[test]
fn files_of_other_kinds_are_named() {
    let tar = [&b"sys_info"[..], &[0; 249], b"ustar\0", &[0; 300]].concat();
    for (bytes, words) in [
        (&b""[..], "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\xef\xbb\xbf\n <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\x1f\x8b\x08\0", "gunzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\0", "NumPy"),
        (&tar, "tar archive"),
        (b"PK\x03\x04 and no more", "is not a valid PyTorch file"),
        (b"text that is not a file of weights", "is neither a safetensors file"),
        (b"\x02\0\0\0\0\0\0\0[]", "is neither a safetensors file"),
        (b"short", "is neither a safetensors file"),
    ] {
        let message = refusal(bytes);
        assert!(message.contains(words), "{message}");
    }
    for (name, words) in [
        ("module.pt", "contains a pickled object of class __main__.Tiny"),
        ("module_old.pt", "contains a pickled object of class __main__.Tiny"),
        ("script.pt", "TorchScript"),
        ("arrays.npz", "NumPy"),
        ("plain.pkl", "that torch.save did not write"),
        ("gone.pt", "check the path"),
        ("", "is not a regular file"),
    ] {
        let message = Weights::open(&fixture(name)).err().unwrap().to_string();
        assert!(message.contains(words) && !message.contains('\n'), "{message}");
    }
    let mut other = zip_of(b"N.", &[]);
    let name = other.windows(8).rposition(|name| name == b"data.pkl").unwrap();
    other[name] = b'D';
    assert!(refusal(&other).contains("has no data.pkl"));
    assert!(Weights::open(Path::new("/")).is_err());
}
