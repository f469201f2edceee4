//! Reading of an ONNX file, for tests.

use super::damaged;
use super::graph::{FindParameter, Graph};
use super::proto::{FLOAT, GraphProto, INT64, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use crate::models::vit::VitConfig;
use prost::Message;
use prost::bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Contents of a file.
#[derive(Clone, PartialEq, Debug)]
pub struct Summary {
    /// Version of ONNX's own operators.
    pub opset: i64,
    /// Texts by key.
    pub metadata: BTreeMap<String, String>,
    /// Inputs of the graph.
    pub inputs: Vec<Value>,
    /// Outputs of the graph.
    pub outputs: Vec<Value>,
    nodes: Vec<NodeProto>,
    constants: BTreeMap<String, TensorProto>,
}

/// Input or output of a graph.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// Name of the value.
    pub name: String,
    /// Sizes, outermost first; none for a size that the input determines.
    pub sizes: Vec<Option<usize>>,
}

/// Reads a file that [`write`](super::write) wrote. Constants are views into `file`.
///
/// # Errors
/// A file that is truncated or not an ONNX file, or whose graph is inconsistent.
pub fn read_back(file: impl Into<Bytes>) -> io::Result<Summary> {
    let model = ModelProto::decode(file.into()).map_err(|e| damaged(format!("not a whole ONNX file ({e})")))?;
    let graph = model.graph.ok_or_else(|| damaged("the file has no graph".into()))?;
    check_order(&graph)?;
    let opset = model.opset_import.iter().find(|set| set.domain.is_empty()).map(|set| set.version);
    let mut constants = BTreeMap::new();
    for constant in graph.initializer {
        check_size(&constant)?;
        constants.insert(constant.name.clone(), constant);
    }
    Ok(Summary {
        opset: opset.ok_or_else(|| damaged("the file names no operator set".into()))?,
        metadata: model.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect(),
        inputs: graph.input.iter().map(value).collect::<io::Result<_>>()?,
        outputs: graph.output.iter().map(value).collect::<io::Result<_>>()?,
        nodes: graph.node,
        constants,
    })
}

impl Summary {
    /// Checks that the graph is this backbone's, with constants that are equal bit for bit.
    ///
    /// # Errors
    /// The first difference, or the errors of [`write`](super::write).
    pub fn compare(&self, config: &VitConfig, parameter: FindParameter<'_, '_>) -> io::Result<()> {
        let expected = Graph::build(config, parameter)?;
        for constant in &expected.constants {
            let name = &constant.name;
            let found = self.constants.get(name).ok_or_else(|| damaged(format!("`{name}` is missing")))?;
            let mut head = constant.head();
            head.raw_data = found.raw_data.clone();
            if head != *found || found.raw_data != constant.bytes() {
                return Err(damaged(format!("`{name}` differs")));
            }
        }
        if self.constants.len() > expected.constants.len() {
            return Err(damaged("the file has additional constants".into()));
        }
        if self.nodes != expected.nodes {
            return Err(damaged("the operations differ".into()));
        }
        Ok(())
    }
}

/// Checks that each value is defined once, before any operation reads it.
fn check_order(graph: &GraphProto) -> io::Result<()> {
    let given = graph.input.iter().map(|value| &value.name).chain(graph.initializer.iter().map(|constant| &constant.name));
    let mut defined = BTreeSet::new();
    for name in given {
        if !defined.insert(name) {
            return Err(damaged(format!("`{name}` is defined twice")));
        }
    }
    for node in &graph.node {
        if let Some(name) = node.input.iter().find(|name| !defined.contains(name)) {
            return Err(damaged(format!("`{}` reads `{name}`, which is not defined before", node.name)));
        }
        if let Some(name) = node.output.iter().find(|name| !defined.insert(name)) {
            return Err(damaged(format!("`{name}` is defined twice")));
        }
    }
    match graph.output.iter().find(|value| !defined.contains(&value.name)) {
        Some(value) => Err(damaged(format!("no operation defines the output `{}`", value.name))),
        None => Ok(()),
    }
}

/// Checks that a constant has as many bytes as its sizes and element type need.
fn check_size(constant: &TensorProto) -> io::Result<()> {
    let element = match constant.data_type {
        FLOAT => size_of::<f32>(),
        INT64 => size_of::<i64>(),
        other => return Err(damaged(format!("`{}` has elements of type {other}", constant.name))),
    };
    let bytes = constant.dims.iter().try_fold(element, |all, size| all.checked_mul(usize::try_from(*size).ok()?));
    if bytes != Some(constant.raw_data.len()) {
        return Err(damaged(format!("`{}` is {:?} but has {} bytes", constant.name, constant.dims, constant.raw_data.len())));
    }
    Ok(())
}

fn value(value: &ValueInfoProto) -> io::Result<Value> {
    let tensor = value.kind.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let shape = tensor.filter(|tensor| tensor.elem_type == FLOAT).and_then(|tensor| tensor.shape.as_ref());
    let shape = shape.ok_or_else(|| damaged(format!("`{}` is not a tensor of floats with sizes", value.name)))?;
    let sizes = shape.dim.iter().map(|dim| dim.dim_value.and_then(|size| usize::try_from(size).ok())).collect();
    Ok(Value { name: value.name.clone(), sizes })
}
