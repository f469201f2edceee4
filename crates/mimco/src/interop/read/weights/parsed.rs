//! What the readers of the formats return.

use super::array::Array;
use std::collections::BTreeMap;

/// More than any file's description of its tensors takes.
pub const LARGEST_PICKLE: u64 = 256 << 20;

/// What the formats' readers find.
#[derive(Default)]
pub struct ParsedFile {
    pub tensors: BTreeMap<String, Array>,
    pub texts: BTreeMap<String, String>,
    pub left_out: BTreeMap<String, usize>,
}
