use super::summary::{Value, read_back};
use super::*;
use prost::bytes::Bytes;

fn small() -> VitConfig {
    VitConfig { heads: 2, ..VitConfig::plain(8, 2, 12, 2, 4) }
}

fn with_all() -> VitConfig {
    VitConfig { registers: 3, layer_scale: 1.0, ..small() }
}

type Values = BTreeMap<String, Vec<f32>>;

/// Makes parameters whose elements are all different.
fn parameters(shape: &VitConfig) -> Values {
    let mut next = 0.0;
    let mut value = || {
        next += 0.25;
        next
    };
    shape.parameters().into_iter().map(|(name, sizes)| (name, (0..sizes.iter().product()).map(|_| value()).collect())).collect()
}

fn written(shape: &VitConfig, batch: Option<usize>, parameters: &Values) -> Vec<u8> {
    let mut bytes = Vec::new();
    let metadata = (0..9).map(|i| (format!("key{i}"), format!("a \"text\" {i}"))).collect();
    write(&mut bytes, shape, batch, &|name| parameters.get(name).map(|p| &p[..]), &metadata).unwrap();
    bytes
}

fn why(result: io::Result<()>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_file_contains_every_parameter_and_the_shapes_of_inputs_and_outputs() {
    for shape in [small(), with_all()] {
        let parameters = parameters(&shape);
        for batch in [None, Some(5)] {
            let file = read_back(written(&shape, batch, &parameters)).unwrap();
            file.compare(&shape, &|name| parameters.get(name).map(|p| &p[..])).unwrap();
            let tokens = 5 + shape.registers;
            let value = |name: &str, sizes: &[usize]| {
                let sizes = [batch].into_iter().chain(sizes.iter().map(|size| Some(*size))).collect();
                Value { name: name.into(), sizes }
            };
            assert_eq!(file.inputs, [value(INPUT, &[3, 4, 4])]);
            assert_eq!(file.outputs, [value("tokens", &[tokens, 8]), value("class", &[8]), value("mean", &[8])]);
            assert_eq!((file.opset, file.metadata.len(), &file.metadata["key4"][..]), (17, 9, "a \"text\" 4"));
        }
    }
}

#[test]
fn any_changed_parameter_is_found() {
    let parameters = parameters(&with_all());
    let file = read_back(written(&with_all(), None, &parameters)).unwrap();
    for name in parameters.keys() {
        let mut changed = parameters.clone();
        *changed.get_mut(name).unwrap().last_mut().unwrap() += 0.5;
        let why = why(file.compare(&with_all(), &|name| changed.get(name).map(|p| &p[..])));
        let folded = ["cls_token", "pos_embed", "reg_token"].contains(&&name[..]);
        let place = if folded { "prefix_and_positions" } else { name };
        assert_eq!(why, format!("`{place}` differs"));
    }
    let find = |name: &str| parameters.get(name).map(|p| &p[..]);
    assert!(why(file.compare(&VitConfig { layer_scale: 0.0, ..with_all() }, &find)).contains("additional constants"));
    assert!(why(file.compare(&VitConfig { norm_eps: 1e-5, ..with_all() }, &find)).contains("operations"));
}

#[test]
fn the_class_token_has_a_position_and_registers_have_none() {
    let shape = VitConfig { width: 2, heads: 1, registers: 2, depth: 1, mlp: 3, ..small() };
    let mut parameters = parameters(&shape);
    parameters.insert("cls_token".into(), vec![1.0, 2.0]);
    parameters.insert("reg_token".into(), vec![3.0, 4.0, 5.0, 6.0]);
    parameters.insert("pos_embed".into(), (1..=10).map(|i| 10.0 * i as f32).collect());
    let model = ModelProto::decode(Bytes::from(written(&shape, None, &parameters))).unwrap();
    let constants = model.graph.unwrap().initializer;
    let folded = constants.iter().find(|constant| constant.name == "prefix_and_positions").unwrap();
    let expected = [11.0f32, 22.0, 3.0, 4.0, 5.0, 6.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0];
    assert_eq!(folded.dims, [1, 7, 2]);
    assert_eq!(folded.raw_data, expected.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
}

#[test]
fn the_same_backbone_gives_the_same_file_with_the_length_that_prost_computes() {
    let parameters = parameters(&with_all());
    let bytes = written(&with_all(), None, &parameters);
    assert_eq!(bytes, written(&with_all(), None, &parameters));
    assert_eq!(ModelProto::decode(&bytes[..]).unwrap().encoded_len(), bytes.len());
}

#[test]
fn damaged_files_are_errors() {
    let parameters = parameters(&small());
    let whole = written(&small(), None, &parameters);
    for place in (0..whole.len()).step_by(5) {
        let mut file = whole.clone();
        file[place] ^= 0x55;
        // A changed text may be read, but nothing may panic.
        let _ = read_back(file).map(|file| file.compare(&small(), &|name| parameters.get(name).map(|p| &p[..])));
    }
    for end in (0..whole.len()).step_by(5) {
        assert!(read_back(Bytes::copy_from_slice(&whole[..end])).is_err(), "{end}");
    }
    let model = ModelProto::decode(&whole[..]).unwrap();
    let fails_with = |change: &dyn Fn(&mut GraphProto), word: &str| {
        let mut model = model.clone();
        change(model.graph.as_mut().unwrap());
        let why = read_back(model.encode_to_vec()).unwrap_err().to_string();
        assert!(why.contains(word), "{why}");
    };
    fails_with(&|graph| graph.node.swap(0, 1), "not defined before");
    fails_with(&|graph| graph.node.push(graph.node[0].clone()), "twice");
    fails_with(&|graph| graph.initializer.push(graph.initializer[0].clone()), "twice");
    fails_with(&|graph| graph.initializer[0].dims.push(2), "bytes");
    fails_with(&|graph| graph.initializer[0].dims = vec![i64::MAX, i64::MAX], "bytes");
    fails_with(&|graph| graph.initializer[0].data_type = 16, "type 16");
    fails_with(&|graph| graph.output[0].name = "other".into(), "no operation defines");
    fails_with(&|graph| graph.input[0].kind = None, "not a tensor");
}

#[test]
fn a_backbone_that_cannot_be_exported_is_an_error_before_anything_is_written() {
    let fails_with = |shape: &VitConfig, batch, parameters: &Values, word: &str| {
        let mut out = Vec::new();
        let why = why(write(&mut out, shape, batch, &|name| parameters.get(name).map(|p| &p[..]), &BTreeMap::new()));
        assert!(why.contains(word) && out.is_empty(), "{why}");
    };
    let whole = parameters(&small());
    fails_with(&VitConfig { registers: 1, ..small() }, None, &whole, "reg_token");
    fails_with(&VitConfig { width: 16, ..small() }, None, &whole, "elements");
    fails_with(&small(), Some(0), &whole, "batch");
    // One buffer serves as all parameters of a model of 2.4 GB.
    let large = VitConfig { width: 1024, depth: 48, heads: 16, mlp: 4096, patch: 16, image: 224, ..small() };
    let sizes: BTreeMap<String, usize> = large.parameters().into_iter().map(|(name, sizes)| (name, sizes.iter().product())).collect();
    let buffer = vec![0.0; 1024 * 4096];
    let mut out = Vec::new();
    let why = why(write(&mut out, &large, None, &|name| sizes.get(name).map(|size| &buffer[..*size]), &BTreeMap::new()));
    assert!(why.contains("2.4 GB") && out.is_empty(), "{why}");
}

#[test]
fn a_file_is_compared_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let compare = |file: &[u8], written: &[u8]| {
        std::fs::write(&path, file).unwrap();
        let mut comparison = Comparison(BufReader::with_capacity(3, File::open(&path).unwrap()));
        comparison.write_all(written).and_then(|()| comparison.check_end()).is_ok()
    };
    assert!(compare(b"some bytes", b"some bytes") && compare(b"", b""));
    assert!(!compare(b"some bytes", b"some byte") && !compare(b"some byte", b"some bytes") && !compare(b"some bytes", b"some Bytes"));
}
