//! An ONNX file read back, for tests.

use super::graph::Graph;
use super::proto::{FLOAT, GraphProto, INT64, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use super::{Parameter, damaged};
use crate::models::vit::VitConfig;
use prost::Message;
use prost::bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// What a file holds.
#[derive(Clone, PartialEq, Debug)]
pub struct Summary {
    /// Version of ONNX's own operators.
    pub opset: i64,
    /// Free text by key.
    pub metadata: BTreeMap<String, String>,
    /// What the caller gives.
    pub inputs: Vec<Value>,
    /// What the caller gets.
    pub outputs: Vec<Value>,
    nodes: Vec<NodeProto>,
    constants: BTreeMap<String, TensorProto>,
}

/// An input or output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// Its sizes, outermost first; none for one that the input decides.
    pub sizes: Vec<Option<usize>>,
}

/// Reads a file that [`write`](super::write) wrote; constants are views into `file`, not copies. Every operation's inputs must be
/// there before it.
///
/// # Errors
/// A file that is cut short, of something else, or whose graph does not hold together.
pub fn read_back(file: impl Into<Bytes>) -> io::Result<Summary> {
    let model = ModelProto::decode(file.into()).map_err(|e| damaged(format!("not a whole ONNX file ({e})")))?;
    let graph = model.graph.ok_or_else(|| damaged("it has no graph".into()))?;
    check_order(&graph)?;
    let opset = model.opset_import.iter().find(|set| set.domain.is_empty()).map(|set| set.version);
    let mut constants = BTreeMap::new();
    for constant in graph.initializer {
        check_size(&constant)?;
        constants.insert(constant.name.clone(), constant);
    }
    Ok(Summary {
        opset: opset.ok_or_else(|| damaged("it does not say which operators it uses".into()))?,
        metadata: model.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect(),
        inputs: graph.input.iter().map(value).collect::<io::Result<_>>()?,
        outputs: graph.output.iter().map(value).collect::<io::Result<_>>()?,
        nodes: graph.node,
        constants,
    })
}

impl Summary {
    /// Whether the graph is this backbone's, its constants bit for bit.
    ///
    /// # Errors
    /// The first constant that is missing or different, or what else differs; or as [`write`](super::write).
    pub fn compare(&self, config: &VitConfig, parameter: Parameter<'_, '_>) -> io::Result<()> {
        let wanted = Graph::build(config, parameter)?;
        for constant in &wanted.constants {
            let name = &constant.name;
            let found = self.constants.get(name).ok_or_else(|| damaged(format!("`{name}` is missing")))?;
            let mut head = constant.head();
            head.raw_data = found.raw_data.clone();
            if head != *found || found.raw_data != constant.bytes() {
                return Err(damaged(format!("`{name}` is not what was written")));
            }
        }
        if self.constants.len() > wanted.constants.len() {
            return Err(damaged("it holds constants that were not written".into()));
        }
        if self.nodes != wanted.nodes {
            return Err(damaged("its operations are not those that were written".into()));
        }
        Ok(())
    }
}

/// Each name is made once, and before it is read.
fn check_order(graph: &GraphProto) -> io::Result<()> {
    let given = graph.input.iter().map(|value| &value.name).chain(graph.initializer.iter().map(|constant| &constant.name));
    let mut there = BTreeSet::new();
    for name in given {
        if !there.insert(name) {
            return Err(damaged(format!("`{name}` is there twice")));
        }
    }
    for node in &graph.node {
        if let Some(name) = node.input.iter().find(|name| !there.contains(name)) {
            return Err(damaged(format!("`{}` reads `{name}`, which is not there before it", node.name)));
        }
        if let Some(name) = node.output.iter().find(|name| !there.insert(name)) {
            return Err(damaged(format!("`{name}` is there twice")));
        }
    }
    match graph.output.iter().find(|value| !there.contains(&value.name)) {
        Some(value) => Err(damaged(format!("no operation makes the output `{}`", value.name))),
        None => Ok(()),
    }
}

/// A constant has the bytes that its sizes ask for.
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
    let shape = shape.ok_or_else(|| damaged(format!("`{}` is no tensor of floats with sizes", value.name)))?;
    let sizes = shape.dim.iter().map(|dim| dim.dim_value.and_then(|size| usize::try_from(size).ok())).collect();
    Ok(Value { name: value.name.clone(), sizes })
}
