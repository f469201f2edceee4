//! Reading of the format of `torch.save` before PyTorch 1.6, which it still writes with
//! `_use_new_zipfile_serialization=False`. The file contains five pickles: a magic number, a
//! version, properties of the machine, the object and the keys of its storages. Then follow, for
//! each key, the number of elements and the elements.

use super::array::Storage;
use super::input::Input;
use super::parsed::{LARGEST_PICKLE, ParsedFile};
use super::pickle::{Pickle, Value};
use super::read_error::ReadError;
use super::torch_tensors::{self, StorageId};
use crate::interop::read::escape::printable;
use std::collections::HashMap;

/// Reads everything but the storages.
pub(super) fn read(input: &mut Input) -> Result<ParsedFile, ReadError> {
    // The length of the pickles is unknown. If a part does not contain all of them, it is doubled.
    let mut wanted = 1 << 16;
    loop {
        let length = input.length().min(wanted);
        let bytes = input.bytes(0, length)?;
        match Pickles::parse(&bytes) {
            Ok(pickles) => return pickles.tensors(input),
            Err(ReadError::Truncated) if length == LARGEST_PICKLE => return Err(ReadError::damaged("its pickles are larger than 256 MB")),
            Err(ReadError::Truncated) if length == wanted => wanted *= 2,
            Err(error) => return Err(error),
        }
    }
}

/// Pickles with the object and the keys of its storages.
struct Pickles<'a> {
    object: Pickle<'a>,
    keys: Pickle<'a>,
    /// Length of all five pickles in bytes.
    length: usize,
}

impl<'a> Pickles<'a> {
    /// Parses the pickles at the beginning of `bytes`.
    fn parse(bytes: &'a [u8]) -> Result<Pickles<'a>, ReadError> {
        const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
        const VERSION: i128 = 1001;
        let mut rest = bytes;
        let mut next = || -> Result<Pickle<'a>, ReadError> {
            let pickle = Pickle::parse(rest)?;
            rest = rest.get(pickle.length..).unwrap_or_default();
            Ok(pickle)
        };
        let magic = next()?;
        if magic.int(magic.top) != Some(MAGIC) {
            return Err(ReadError::Unsupported(
                "is a pickle that torch.save did not write; load it in Python and save its tensors with torch.save".to_string(),
            ));
        }
        let version = next()?;
        if version.int(version.top) != Some(VERSION) {
            return Err(ReadError::damaged("its version is unknown"));
        }
        let machine = next()?;
        if little_endian(&machine) != Some(true) {
            return Err(ReadError::Unsupported(
                "was saved on a big-endian machine; load it in PyTorch and save it again on this one".to_string(),
            ));
        }
        let (object, keys) = (next()?, next()?);
        Ok(Pickles { object, keys, length: bytes.len() - rest.len() })
    }

    /// Names the tensors and locates their storages.
    fn tensors(&self, input: &mut Input) -> Result<ParsedFile, ReadError> {
        let storages = self.storages(input)?;
        torch_tensors::collect(&self.object, &mut |storage| {
            let wrong = |what: &str| ReadError::Damaged(format!("its storage {} {what}", printable(storage.key)));
            let whole = storages.get(storage.key).ok_or_else(|| wrong("is missing"))?;
            let Some((start, elements)) = storage.part else { return Ok(*whole) };
            let start = start.checked_mul(storage.size);
            let length = elements.checked_mul(storage.size);
            match (start, length) {
                (Some(start), Some(length)) if start.checked_add(length).is_some_and(|end| end <= whole.length) => {
                    Ok(Storage { start: whole.start + start, length })
                }
                _ => Err(wrong("is shorter than a part of it")),
            }
        })
    }

    /// Locates the storages, which are in the order of the keys.
    fn storages(&self, input: &mut Input) -> Result<HashMap<&str, Storage>, ReadError> {
        let mut described = HashMap::new();
        for id in self.object.values().filter_map(|value| StorageId::of(&self.object, value)) {
            described.entry(id.key).or_insert(id);
        }
        let mut storages = HashMap::new();
        let mut start = self.length as u64;
        for key in self.keys.items(self.keys.top).ok_or_else(|| ReadError::damaged("it has no list of storages"))? {
            let key = self.keys.text(*key).ok_or_else(|| ReadError::damaged("a storage has no name"))?;
            let wrong = |what: &str| ReadError::Damaged(format!("its storage {} {what}", printable(key)));
            let id = described.get(key).ok_or_else(|| wrong("is not described"))?;
            let count = input.bytes(start, 8)?;
            if count != id.elements.to_le_bytes() {
                return Err(wrong("has another number of elements than its tensors describe"));
            }
            start += 8;
            let length = id.length().ok_or_else(|| wrong("is too large"))?;
            let end = start.checked_add(length).filter(|end| *end <= input.length()).ok_or(ReadError::Truncated)?;
            if storages.insert(key, Storage { start, length }).is_some() {
                return Err(wrong("occurs twice"));
            }
            start = end;
        }
        Ok(storages)
    }
}

/// Returns whether the file is from a little-endian machine, if it contains that property.
fn little_endian(machine: &Pickle<'_>) -> Option<bool> {
    let Value::Dict(entries) = machine.get(machine.top) else { return None };
    let (_, value) = entries.iter().find(|(key, _)| machine.text(*key) == Some("little_endian"))?;
    if let Value::Bool(little) = machine.get(*value) { Some(*little) } else { None }
}
