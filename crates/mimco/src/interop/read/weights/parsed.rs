//! Result of the readers of the file formats.

use super::array::Array;
use std::collections::BTreeMap;

/// Largest pickle that is read, in bytes. No file's description of its tensors is larger.
pub const LARGEST_PICKLE: u64 = 256 << 20;

/// Contents of a file without the elements of its tensors; the fields are
/// those of `Weights`.
#[derive(Default)]
pub struct ParsedFile {
    pub tensors: BTreeMap<String, Array>,
    pub texts: BTreeMap<String, String>,
    pub left_out: BTreeMap<String, usize>,
}
