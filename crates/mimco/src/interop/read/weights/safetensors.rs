//! Reading of safetensors files: eight bytes with the length of the header, the header as JSON, the
//! data. Own code, because the `safetensors` crate needs the whole file in memory or mapped, and
//! silently takes the last of two tensors of one name.

use super::array::{Array, Storage};
use super::dtype::Dtype;
use super::input::Input;
use super::parsed::ParsedFile;
use super::read_error::ReadError;
use crate::interop::read::escape::printable;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fmt;

/// Reads the header. Each byte of data must belong to exactly one tensor.
pub(super) fn read(input: &mut Input) -> Result<ParsedFile, ReadError> {
    /// Limit of the header's length in the format, in bytes.
    const LARGEST: u64 = 100_000_000;
    let mut length = [0; 8];
    length.copy_from_slice(&input.bytes(0, 8)?);
    let length = u64::from_le_bytes(length);
    if length > LARGEST {
        return Err(ReadError::damaged("its header is larger than 100 MB"));
    }
    let json = input.bytes(8, length)?;
    if json.first() != Some(&b'{') {
        return Err(ReadError::damaged("its header is not JSON"));
    }
    let header: Header =
        serde_json::from_slice(&json).map_err(|e| ReadError::Damaged(format!("its header: {}", printable(&e.to_string()))))?;
    let data = 8 + length;
    check_offsets(&header, input.length() - data)?;
    let mut found = ParsedFile { texts: header.metadata, ..ParsedFile::default() };
    for (name, entry) in header.tensors {
        let [start, end] = entry.data_offsets;
        let storage = Storage { start: data + start, length: end - start };
        let wrong = |why: &str| ReadError::Damaged(format!("tensor {} {why}", printable(&name)));
        let elements = entry.shape.0.iter().try_fold(1u64, |product, size| product.checked_mul(*size as u64));
        let bits = bits(&entry.dtype);
        if bits.is_some_and(|bits| elements.and_then(|n| n.checked_mul(bits)) != storage.length.checked_mul(8)) {
            return Err(wrong("has another size than its shape and type need"));
        }
        let dtype = match &entry.dtype[..] {
            "F64" => Dtype::F64,
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::BF16,
            other => {
                *found.left_out.entry(pytorch_name(other)).or_default() += 1;
                continue;
            }
        };
        let array = Array::contiguous(dtype, entry.shape.0, storage).map_err(wrong)?;
        found.tensors.insert(name, array);
    }
    Ok(found)
}

/// Checks that the tensors' data are contiguous and extend to the end of the file.
fn check_offsets(header: &Header, length: u64) -> Result<(), ReadError> {
    let mut by_start: Vec<(&[u64; 2], &String)> = header.tensors.iter().map(|(name, entry)| (&entry.data_offsets, name)).collect();
    by_start.sort_unstable();
    let mut at = 0;
    for ([start, end], name) in by_start {
        if *end > length {
            return Err(ReadError::Truncated);
        }
        if *start != at || end < start {
            return Err(ReadError::Damaged(format!(
                "the data of tensor {} does not begin at the end of the preceding tensor's",
                printable(name)
            )));
        }
        at = *end;
    }
    if at == length { Ok(()) } else { Err(ReadError::Damaged(format!("{} bytes at its end belong to no tensor", length - at))) }
}

/// Returns the size of an element in bits, for the types that the format has at present.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "F32" | "I32" | "U32" => 32,
        "F64" | "I64" | "U64" | "C64" => 64,
        _ => return None,
    })
}

/// Returns PyTorch's name of an element type.
fn pytorch_name(dtype: &str) -> String {
    match dtype {
        "BOOL" => "bool".to_string(),
        "C64" => "complex64".to_string(),
        "I8" | "I16" | "I32" | "I64" => dtype.replace('I', "int"),
        "U8" | "U16" | "U32" | "U64" => dtype.replace('U', "uint"),
        other => printable(other),
    }
}

#[derive(Default)]
struct Header {
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: [u64; 2],
}

struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Header, D::Error> {
        from.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(A::Error::custom("two entries __metadata__"));
                }
                header.metadata = map.next_value::<Option<Texts>>()?.map(|texts| texts.0).unwrap_or_default();
                continue;
            }
            match header.tensors.entry(name) {
                Slot::Vacant(slot) => {
                    slot.insert(map.next_value()?);
                }
                Slot::Occupied(slot) => return Err(A::Error::custom(format_args!("two tensors named {}", printable(slot.key())))),
            }
        }
        Ok(header)
    }
}

struct Texts(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Texts, D::Error> {
        from.deserialize_map(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("texts by key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some((key, text)) = map.next_entry::<String, String>()? {
            match texts.entry(key) {
                Slot::Vacant(slot) => {
                    slot.insert(text);
                }
                Slot::Occupied(slot) => return Err(A::Error::custom(format_args!("two texts under the key {}", printable(slot.key())))),
            }
        }
        Ok(Texts(texts))
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Shape, D::Error> {
        from.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a shape of at most 64 sizes")
    }

    /// Stops at PyTorch's own limit of 64 sizes, which bounds the memory by the length of the text.
    fn visit_seq<A: SeqAccess<'de>>(self, mut sizes: A) -> Result<Shape, A::Error> {
        let mut shape = Vec::new();
        while let Some(size) = sizes.next_element()? {
            if shape.len() == 64 {
                return Err(A::Error::invalid_length(65, &self));
            }
            shape.push(size);
        }
        Ok(Shape(shape))
    }
}
