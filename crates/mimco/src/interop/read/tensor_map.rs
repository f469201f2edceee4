//! Map from a model's parameters to the tensors of a file.

use super::escape::printable;
use super::layouts::{KeyMapping, Layout};
use super::weights::Weights;
use crate::Error;
use std::collections::BTreeMap;

const QKV_BIAS: &str = "attn.qkv.bias";

/// Tensors of a file by the names of the parameters that they contain.
pub struct TensorMap<'a> {
    whole: BTreeMap<&'a str, &'a str>,
    /// Parameters that the file stores in three tensors: q, k and v.
    qkv_parts: BTreeMap<&'a str, [Option<&'a str>; 3]>,
    has_qkv_bias: bool,
    weights: &'a Weights,
}

impl<'a> TensorMap<'a> {
    /// Maps the tensors of a file.
    ///
    /// # Errors
    /// Two tensors of the file that contain the same parameter.
    pub fn new(weights: &'a Weights, layout: &'a Layout) -> Result<TensorMap<'a>, Error> {
        let mut map = TensorMap { whole: BTreeMap::new(), qkv_parts: BTreeMap::new(), has_qkv_bias: false, weights };
        for (stored, mapping) in &layout.keys {
            let (parameter, other) = match mapping {
                KeyMapping::Parameter(parameter) => (parameter, map.whole.insert(parameter, stored)),
                KeyMapping::QkvPart(parameter, part) => (parameter, map.qkv_parts.entry(parameter).or_default()[*part].replace(stored)),
                KeyMapping::Ignored(_) => continue,
            };
            map.has_qkv_bias |= parameter.ends_with(QKV_BIAS);
            if let Some(other) = other {
                let (other, stored) = (printable(other), printable(stored));
                let what = format!("`{other}` and `{stored}` are both `{parameter}`; give the checkpoint of a single model");
                return Err(Error::file(weights.path(), what));
            }
        }
        Ok(map)
    }

    /// Returns the name in the file of a parameter that is stored in one tensor.
    pub fn stored_name(&self, parameter: &str) -> Option<&'a str> {
        self.whole.get(parameter).copied()
    }

    /// Returns the names in the file of q, k and v, for a parameter that is stored in three parts.
    pub fn qkv_parts(&self, parameter: &str) -> Option<[&'a str; 3]> {
        match self.qkv_parts.get(parameter)? {
            [Some(q), Some(k), Some(v)] => Some([q, k, v]),
            _ => None,
        }
    }

    /// Iterates over all parameters that the file contains wholly or in part.
    pub fn parameters(&self) -> impl Iterator<Item = &'a str> {
        self.whole.keys().chain(self.qkv_parts.keys()).copied()
    }

    /// Whether a parameter is the bias of q, k and v in a model without such biases. It is 0 then.
    pub fn lacks_bias(&self, parameter: &str) -> bool {
        parameter.ends_with(QKV_BIAS) && !self.has_qkv_bias
    }

    /// Whether the file determines a parameter.
    pub fn has(&self, parameter: &str) -> bool {
        self.stored_name(parameter).is_some() || self.qkv_parts(parameter).is_some() || self.lacks_bias(parameter)
    }

    /// Returns the shape of a parameter that is stored in one tensor.
    pub fn shape(&self, parameter: &str) -> Option<&'a [usize]> {
        Some(self.stored_shape(self.stored_name(parameter)?))
    }

    /// Returns the shape of a tensor of the file; empty for an unknown name.
    pub fn stored_shape(&self, stored: &str) -> &'a [usize] {
        self.weights.tensors.get(stored).map_or(&[], |array| &array.shape)
    }

    /// Describes the tensors that were skipped for their element type, as a note to an error about
    /// a missing tensor.
    pub fn skipped_types(&self) -> String {
        let types = self.weights.left_out.iter().filter(|(what, _)| !what.contains('.'));
        let types: Vec<String> = types.map(|(what, count)| format!("{count} of {}", printable(what))).collect();
        if types.is_empty() { String::new() } else { format!(" (skipped tensors of unsupported types: {})", types.join(", ")) }
    }
}
