//! What `torch.save` wrote before PyTorch 1.6, and writes with `_use_new_zipfile_serialization=False`: a magic number, a version, facts about the
//! machine, the object and the keys of its storages, each a pickle; then for each key a count of elements and the elements.

use super::array::Storage;
use super::fault::Fault;
use super::input::Input;
use super::names::{self, StorageId};
use super::parsed::{LARGEST_PICKLE, ParsedFile};
use super::pickle::{Pickle, Value};
use crate::interop::read::escape::printable;
use std::collections::HashMap;

pub(super) fn read(input: &mut Input) -> Result<ParsedFile, Fault> {
    // The pickles do not say how long they are: what does not suffice is read again, twice as much.
    let mut wanted = 1 << 16;
    loop {
        let length = input.length().min(wanted);
        let bytes = input.bytes(0, length)?;
        match Pickles::parse(&bytes) {
            Ok(pickles) => return pickles.tensors(input),
            Err(Fault::Cut) if length == LARGEST_PICKLE => return Err(Fault::damaged("its pickles are larger than 256 MB")),
            Err(Fault::Cut) if length == wanted => wanted *= 2,
            Err(fault) => return Err(fault),
        }
    }
}

/// The pickles that matter.
struct Pickles<'a> {
    object: Pickle<'a>,
    keys: Pickle<'a>,
    /// Bytes of all of them.
    length: usize,
}

impl<'a> Pickles<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Pickles<'a>, Fault> {
        const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
        const VERSION: i128 = 1001;
        let mut rest = bytes;
        let mut next = || -> Result<Pickle<'a>, Fault> {
            let pickle = Pickle::parse(rest)?;
            rest = rest.get(pickle.length..).unwrap_or_default();
            Ok(pickle)
        };
        let magic = next()?;
        if magic.int(magic.top) != Some(MAGIC) {
            return Err(Fault::Refused(
                "is a pickle, but none that torch.save wrote; load it in Python and save its tensors with torch.save".to_string(),
            ));
        }
        let version = next()?;
        if version.int(version.top) != Some(VERSION) {
            return Err(Fault::damaged("it is of a version that is not known"));
        }
        let machine = next()?;
        if little_endian(&machine) != Some(true) {
            return Err(Fault::Refused("was saved on a big-endian machine; load it in PyTorch and save it again on this one".to_string()));
        }
        let (object, keys) = (next()?, next()?);
        Ok(Pickles { object, keys, length: bytes.len() - rest.len() })
    }

    fn tensors(&self, input: &mut Input) -> Result<ParsedFile, Fault> {
        let storages = self.storages(input)?;
        names::collect(&self.object, &mut |storage| {
            let wrong = |what: &str| Fault::Damaged(format!("its storage {} {what}", printable(storage.key)));
            let whole = storages.get(storage.key).ok_or_else(|| wrong("is not there"))?;
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

    /// Where each storage lies, in the order of the keys.
    fn storages(&self, input: &mut Input) -> Result<HashMap<&str, Storage>, Fault> {
        let mut described = HashMap::new();
        for id in self.object.values().filter_map(|value| StorageId::of(&self.object, value)) {
            described.entry(id.key).or_insert(id);
        }
        let mut storages = HashMap::new();
        let mut start = self.length as u64;
        for key in self.keys.items(self.keys.top).ok_or_else(|| Fault::damaged("it has no list of storages"))? {
            let key = self.keys.text(*key).ok_or_else(|| Fault::damaged("a storage has no name"))?;
            let wrong = |what: &str| Fault::Damaged(format!("its storage {} {what}", printable(key)));
            let id = described.get(key).ok_or_else(|| wrong("is not described"))?;
            let count = input.bytes(start, 8)?;
            if count != id.elements.to_le_bytes() {
                return Err(wrong("has not as many elements as it is said to have"));
            }
            start += 8;
            let length = id.length().ok_or_else(|| wrong("has more bytes than can be"))?;
            let end = start.checked_add(length).filter(|end| *end <= input.length()).ok_or(Fault::Cut)?;
            if storages.insert(key, Storage { start, length }).is_some() {
                return Err(wrong("is there twice"));
            }
            start = end;
        }
        Ok(storages)
    }
}

fn little_endian(machine: &Pickle<'_>) -> Option<bool> {
    let Value::Dict(entries) = machine.get(machine.top) else { return None };
    let (_, value) = entries.iter().find(|(key, _)| machine.text(*key) == Some("little_endian"))?;
    if let Value::Bool(little) = machine.get(*value) { Some(*little) } else { None }
}
