//! A backbone as an ONNX file: written for runtimes that know nothing of this project, and read back to see that the file holds it.

mod graph;
mod proto;
#[cfg(test)]
mod summary;

use super::backbone::{self, Info};
use crate::models::vit::VitConfig;
use crate::{Error, files};
use graph::{Constant, Graph};
use mimco_engine::Parameters;
use prost::{Message, encode_length_delimiter, length_delimiter_len};
use proto::{
    DimensionProto, FLOAT, GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

/// Name of the graph's input.
const INPUT: &str = "pixel_values";
/// Names of the graph's outputs.
const OUTPUTS: [&str; 3] = ["tokens", "class", "mean"];
/// Operator set of the nodes: the first with a layer norm.
const OPSET: i64 = 17;
/// The schema's version that came with it.
const IR_VERSION: i64 = 8;
const CHANNELS: usize = 3;
/// Most bytes of parameters. Protobuf ends at 2 GiB; the rest is for the nodes.
const LARGEST: usize = 1_900_000_000;
/// Finds a parameter by timm's name.
type Parameter<'f, 'p> = &'f dyn Fn(&str) -> Option<&'p [f32]>;

/// Writes a backbone's ONNX file, reads it again and compares it with what went in.
///
/// # Errors
/// As [`write`]; a file that does not read back.
pub(super) fn export(path: &Path, batch: Option<usize>, parameters: &Parameters, info: &Info) -> Result<(), Error> {
    let parameter = |name: &str| parameters.find(name).map(|id| parameters.get(id));
    let statistics = [("mean", info.model.mean), ("std", info.model.std)].map(|(name, values)| (name.to_string(), format!("{values:?}")));
    let metadata = backbone::metadata(path, info)?.into_iter().filter(|(key, _)| key == backbone::KEY).chain(statistics).collect();
    files::write_atomically_with(path, |out| write(out, &info.model, batch, &parameter, &metadata))?;
    let again = || {
        let mut same = Same(BufReader::with_capacity(1 << 20, File::open(path)?));
        write(&mut same, &info.model, batch, &parameter, &metadata)?;
        same.ends()
    };
    again().map_err(|e: io::Error| Error::file(path, format!("{e}, read back after it was written; write it elsewhere")))
}

/// Takes what is written only where the file says the same: a whole file is compared without being held.
struct Same(BufReader<File>);

impl Write for Same {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let there = self.0.fill_buf()?;
        let common = there.len().min(bytes.len());
        if common == 0 && !bytes.is_empty() {
            return Err(damaged("it ends too early".into()));
        }
        if there[..common] != bytes[..common] {
            return Err(damaged("it is not what it should be".into()));
        }
        self.0.consume(common);
        Ok(common)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Same {
    fn ends(mut self) -> io::Result<()> {
        if self.0.fill_buf()?.is_empty() { Ok(()) } else { Err(damaged("it goes on where it should end".into())) }
    }
}

/// Writes the backbone as an ONNX model, one parameter at a time and the same bytes each time. `batch` fixes the number of images of a
/// call; without it any number will do.
///
/// # Errors
/// A batch of no images, a parameter that is missing or of another size, more parameters than such a file can hold, or
/// an output that cannot be written.
fn write(
    out: &mut dyn Write,
    config: &VitConfig,
    batch: Option<usize>,
    parameter: Parameter<'_, '_>,
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    if batch == Some(0) {
        return Err(invalid("a batch of 0 images".into()));
    }
    let graph = Graph::build(config, parameter)?;
    let size: usize = graph.constants.iter().map(Constant::size).sum();
    if size > LARGEST {
        return Err(invalid(format!(
            "the parameters take {:.1} GB, and an ONNX file can hold no more than {:.1} GB; export safetensors instead",
            size as f64 / 1e9,
            LARGEST as f64 / 1e9
        )));
    }
    // A protobuf message is its fields one behind the other, in any order, so the parameters can follow the rest of the graph, and the
    // graph the rest of the model, without the whole being held; only the lengths must be known before.
    let model = model(metadata).encode_to_vec();
    let rest = graph_around(config, batch, &graph).encode_to_vec();
    let constants: usize = graph.constants.iter().map(|c| field_len(constant_len(c))).sum();
    out.write_all(&model)?;
    begin_field(out, 7, rest.len() + constants)?;
    out.write_all(&rest)?;
    for constant in &graph.constants {
        begin_field(out, 5, constant_len(constant))?;
        out.write_all(&constant.head().encode_to_vec())?;
        begin_field(out, 9, constant.size())?;
        out.write_all(&constant.bytes())?;
    }
    Ok(())
}

/// Begins the field of this number that is a message or bytes of this length.
fn begin_field(out: &mut dyn Write, number: u8, length: usize) -> io::Result<()> {
    let mut bytes = vec![number << 3 | 2]; // 2 says that a length follows
    encode_length_delimiter(length, &mut bytes).map_err(io::Error::other)?;
    out.write_all(&bytes)
}

fn field_len(length: usize) -> usize {
    1 + length_delimiter_len(length) + length
}

/// Length of a constant as `TensorProto`.
fn constant_len(constant: &Constant<'_>) -> usize {
    constant.head().encoded_len() + field_len(constant.size())
}

/// The model but for its graph. No time and no path: the same backbone is the same file.
fn model(metadata: &BTreeMap<String, String>) -> ModelProto {
    let doc_string = format!(
        "A vision transformer without a head. `{INPUT}`: RGB images, each channel brought to 0..1, less its mean, over its standard \
         deviation (both in the metadata). `tokens`: class token, registers if any, and patches row by row, after the final norm; `class`: \
         the class token; `mean`: the mean of the patches."
    );
    ModelProto {
        ir_version: IR_VERSION,
        producer_name: "mimco".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        doc_string,
        graph: None,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: metadata.iter().map(|(key, value)| StringStringEntryProto { key: key.clone(), value: value.clone() }).collect(),
    }
}

/// The graph but for its constants.
fn graph_around(config: &VitConfig, batch: Option<usize>, graph: &Graph<'_, '_>) -> GraphProto {
    let value = |name: &str, sizes: &[usize], doc: &str| {
        let fixed = |size: usize| DimensionProto { dim_value: Some(size as i64), dim_param: None };
        let mut dim = vec![batch.map_or_else(|| DimensionProto { dim_value: None, dim_param: Some("batch".into()) }, fixed)];
        dim.extend(sizes.iter().copied().map(fixed));
        let tensor_type = TensorTypeProto { elem_type: FLOAT, shape: Some(TensorShapeProto { dim }) };
        ValueInfoProto { name: name.into(), kind: Some(TypeProto { tensor_type: Some(tensor_type) }), doc_string: doc.into() }
    };
    let [tokens, class, mean] = OUTPUTS;
    GraphProto {
        node: graph.nodes.clone(),
        name: "vit".into(),
        initializer: vec![],
        input: vec![value(INPUT, &[CHANNELS, config.image, config.image], "(values in 0..1 - mean) / deviation, channels R, G, B")],
        output: vec![
            value(tokens, &[config.tokens(), config.width], "class token, registers, patches row by row; after the final norm"),
            value(class, &[config.width], "the class token"),
            value(mean, &[config.width], "the mean of the patches' tokens"),
        ],
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
