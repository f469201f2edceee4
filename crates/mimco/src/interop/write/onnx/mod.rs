//! Export of a backbone as an ONNX file. The protobuf messages are own code by `prost` derive: ONNX
//! crates wrap the same generated messages, and none streams the parameters.

mod graph;
mod proto;
#[cfg(test)]
mod summary;

use crate::interop::info::{Info, KEY};
use crate::interop::write::tensors::HostParameters;
use crate::models::vit::VitConfig;
use crate::{Error, files};
use graph::{CHANNELS, Constant, FindParameter, Graph, INPUT, invalid};

use prost::{Message, encode_length_delimiter, length_delimiter_len};
use proto::{
    DimensionProto, FLOAT, GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

/// Names of the graph's outputs.
const OUTPUTS: [&str; 3] = ["tokens", "class", "mean"];
/// Operator set of the nodes: the first with a layer norm.
const OPSET: i64 = 17;
/// Version of the schema that introduced the operator set.
const IR_VERSION: i64 = 8;
/// Most bytes of parameters. Protobuf's limit is 2 GiB; the rest is for the nodes.
const LARGEST: usize = 1_900_000_000;

/// Writes a backbone's ONNX file, reads it back and compares it byte for byte.
///
/// # Errors
/// Those of [`write`], and a file that differs when read back.
pub(crate) fn export(path: &Path, batch: Option<usize>, parameters: &HostParameters<'_>, info: &Info) -> Result<(), Error> {
    let parameter = |name: &str| parameters.get(name);
    let statistics = [("mean", info.model.mean), ("std", info.model.std)].map(|(name, values)| (name.to_string(), format!("{values:?}")));
    let metadata = info.metadata(path)?.into_iter().filter(|(key, _)| key == KEY).chain(statistics).collect();
    files::write_atomically_with(path, |out| write(out, &info.model, batch, &parameter, &metadata))?;
    let compare = || {
        let mut comparison = Comparison(BufReader::with_capacity(1 << 20, File::open(path)?));
        write(&mut comparison, &info.model, batch, &parameter, &metadata)?;
        comparison.check_end()
    };
    compare().map_err(|e: io::Error| Error::file(path, format!("{e} when read back; write it to another disk")))
}

/// Writer that accepts only the bytes of an existing file. It compares a whole file without holding
/// it in memory.
struct Comparison(BufReader<File>);

impl Write for Comparison {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stored = self.0.fill_buf()?;
        let common = stored.len().min(bytes.len());
        if common == 0 && !bytes.is_empty() {
            return Err(damaged("the file ends too early".into()));
        }
        if stored[..common] != bytes[..common] {
            return Err(damaged("the file differs".into()));
        }
        self.0.consume(common);
        Ok(common)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Comparison {
    /// Checks that the whole file has been compared.
    fn check_end(mut self) -> io::Result<()> {
        if self.0.fill_buf()?.is_empty() { Ok(()) } else { Err(damaged("the file is too long".into())) }
    }
}

/// Writes a backbone as an ONNX model, one parameter at a time. `batch` fixes the number of images
/// of a call; without it any number is allowed. The same backbone always gives the same bytes.
///
/// # Errors
/// A batch of 0 images, a parameter that is missing or has the wrong size, parameters that exceed
/// protobuf's limit, or an output that cannot be written.
fn write(
    out: &mut dyn Write,
    config: &VitConfig,
    batch: Option<usize>,
    parameter: FindParameter<'_, '_>,
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    if batch == Some(0) {
        return Err(invalid("a batch of 0 images".into()));
    }
    let graph = Graph::build(config, parameter)?;
    let size: usize = graph.constants.iter().map(Constant::size).sum();
    if size > LARGEST {
        return Err(invalid(format!(
            "the parameters take {:.1} GB, but an ONNX file holds at most {:.1} GB; export safetensors instead",
            size as f64 / 1e9,
            LARGEST as f64 / 1e9
        )));
    }
    // A protobuf message is a sequence of fields in any order. So the graph can follow the rest of
    // the model, and the parameters the rest of the graph; only the lengths must be known in
    // advance.
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

/// Writes the head of a field: its number and the length of its message or bytes.
fn begin_field(out: &mut dyn Write, number: u8, length: usize) -> io::Result<()> {
    let mut bytes = vec![number << 3 | 2]; // wire type 2: a length follows
    encode_length_delimiter(length, &mut bytes).map_err(io::Error::other)?;
    out.write_all(&bytes)
}

/// Returns the length of a field with contents of this length, for field numbers below 16.
fn field_len(length: usize) -> usize {
    1 + length_delimiter_len(length) + length
}

/// Returns the length of a constant as a `TensorProto`.
fn constant_len(constant: &Constant<'_>) -> usize {
    constant.head().encoded_len() + field_len(constant.size())
}

/// Returns the model without its graph. It contains no time and no path.
fn model(metadata: &BTreeMap<String, String>) -> ModelProto {
    let doc_string = format!(
        "A vision transformer without a head. `{INPUT}`: RGB images with values in 0..1, normalized with the mean and std of the metadata. \
         `tokens`: class token, registers if any, and patches row by row, after the final norm; `class`: \
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

/// Returns the graph without its constants.
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
        input: vec![value(INPUT, &[CHANNELS, config.image, config.image], "(values in 0..1 - mean) / std, channels R, G, B")],
        output: vec![
            value(tokens, &[config.tokens(), config.width], "class token, registers, patches row by row; after the final norm"),
            value(class, &[config.width], "the class token"),
            value(mean, &[config.width], "the mean of the patches' tokens"),
        ],
    }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
