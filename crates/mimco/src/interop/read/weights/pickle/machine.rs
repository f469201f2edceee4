//! The stack machine that pickles are programs of: its values, its memo, and what the instructions are made of.

use super::super::fault::Fault;
use super::value::{Handle, Value, get, global, items};
use std::collections::HashMap;

/// The values that there is only one of.
pub const NONE: Handle = 0;
pub const TRUE: Handle = 1;
pub const FALSE: Handle = 2;
pub const EMPTY_TUPLE: Handle = 3;

pub struct Machine<'a> {
    pub rest: &'a [u8],
    pub values: Vec<Value<'a>>,
    pub stack: Vec<Handle>,
    /// Lengths of the stack where a group of items begins.
    pub marks: Vec<usize>,
    pub memo: HashMap<u64, Handle>,
    /// How many items may still be copied from one value to another, or looked at to see whether they can.
    copies: usize,
}

impl<'a> Machine<'a> {
    pub fn new(bytes: &'a [u8]) -> Machine<'a> {
        Machine {
            rest: bytes,
            values: vec![Value::None, Value::Bool(true), Value::Bool(false), Value::Tuple(Vec::new())],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copies: bytes.len(),
        }
    }

    /// Stops a pickle that builds more than weights can need; an instruction adds few things, so it is enough to look after each.
    pub fn check_size(&self) -> Result<(), Fault> {
        const MOST: usize = 8_000_000;
        let sizes = [self.values.len(), self.stack.len(), self.marks.len(), self.memo.len()];
        if sizes.iter().any(|size| *size > MOST) { Err(too_large()) } else { Ok(()) }
    }

    /// Bytes behind the instructions so far.
    pub fn unread(&self) -> usize {
        self.rest.len()
    }

    /// Notes a call of what is on the stack; a few classes are plain containers and become those.
    pub fn call(&mut self, args: Handle) -> Result<(), Fault> {
        let called = self.pop()?;
        let class = match get(&self.values, called) {
            Value::Global { .. } => called,
            // What an object gives when called is known no better than the object.
            Value::Object { class, .. } => *class,
            _ => return Err(Fault::damaged("a call of what cannot be called")),
        };
        let arguments = items(&self.values, args).unwrap_or_default();
        match global(&self.values, class) {
            Some(("collections", "OrderedDict") | ("builtins" | "__builtin__", "dict")) => {
                let (looked_at, pairs) = self.pairs(arguments);
                self.copies = self.copies.checked_sub(looked_at).ok_or_else(too_large)?;
                if let Some(pairs) = pairs {
                    return self.push(Value::Dict(pairs));
                }
            }
            Some(("torch", "Size")) => {
                if let [sizes] = arguments
                    && let Value::Tuple(_) = get(&self.values, *sizes)
                {
                    self.stack.push(*sizes);
                    return Ok(());
                }
            }
            _ => {}
        }
        self.push(Value::Object { class, args, state: NONE })
    }

    /// What a dict is made of by its arguments, nothing or as Python 2 writes it, a list of pairs; and how many items that took to see.
    fn pairs(&self, arguments: &[Handle]) -> (usize, Option<Vec<(Handle, Handle)>>) {
        let [list] = arguments else { return (0, arguments.is_empty().then(Vec::new)) };
        let Some(list) = items(&self.values, *list) else { return (0, None) };
        let pair = |item: &Handle| match items(&self.values, *item) {
            Some([key, value]) => Some((*key, *value)),
            _ => None,
        };
        (list.len(), list.iter().map(pair).collect())
    }

    pub fn append(&mut self, mut items: Vec<Handle>) -> Result<(), Fault> {
        let target = self.top()?;
        match self.values.get_mut(target as usize) {
            Some(Value::List(list)) => list.append(&mut items),
            Some(Value::Object { .. } | Value::Other(_)) => {}
            _ => return Err(Fault::damaged("an item for what is no list")),
        }
        Ok(())
    }

    pub fn insert(&mut self, items: &[Handle]) -> Result<(), Fault> {
        let pairs = pairs_of(items)?;
        let target = self.top()?;
        match self.values.get_mut(target as usize) {
            Some(Value::Dict(dict)) => dict.extend(pairs),
            Some(Value::Object { .. } | Value::Other(_)) => {}
            _ => return Err(Fault::damaged("an entry for what is no dict")),
        }
        Ok(())
    }

    pub fn memorize(&mut self, width: usize) -> Result<(), Fault> {
        let slot = self.number(width)?;
        self.memo.insert(slot, self.top()?);
        Ok(())
    }

    pub fn recall(&mut self, width: usize) -> Result<(), Fault> {
        let slot = self.number(width)?;
        self.recall_slot(slot)
    }

    pub fn recall_slot(&mut self, slot: u64) -> Result<(), Fault> {
        let value = self.memo.get(&slot).ok_or_else(|| Fault::damaged("a value is used before it is there"))?;
        self.stack.push(*value);
        Ok(())
    }

    pub fn push_int(&mut self, width: usize) -> Result<(), Fault> {
        let value = self.number(width)?;
        self.push(Value::Int(value.into()))
    }

    pub fn push_long(&mut self, width: usize) -> Result<(), Fault> {
        let length = self.number(width)?;
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        self.push(match wide.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Value::Int(i128::from_le_bytes(wide))
            }
            None => Value::Other("builtins.int"),
        })
    }

    pub fn push_text(&mut self, width: usize) -> Result<(), Fault> {
        let length = self.number(width)?;
        let bytes = self.take(length)?;
        self.push(Value::Text(String::from_utf8_lossy(bytes)))
    }

    pub fn push_opaque(&mut self, width: usize, class: &'static str) -> Result<(), Fault> {
        let length = self.number(width)?;
        self.take(length)?;
        self.push(Value::Other(class))
    }

    pub fn push_tuple(&mut self, items: usize) -> Result<(), Fault> {
        let mut tuple = Vec::with_capacity(items);
        for _ in 0..items {
            tuple.push(self.pop()?);
        }
        tuple.reverse();
        self.push(Value::Tuple(tuple))
    }

    pub fn push(&mut self, value: Value<'a>) -> Result<(), Fault> {
        let handle = self.add(value)?;
        self.stack.push(handle);
        Ok(())
    }

    pub fn add(&mut self, value: Value<'a>) -> Result<Handle, Fault> {
        let handle = Handle::try_from(self.values.len()).map_err(|_| too_large())?;
        self.values.push(value);
        Ok(handle)
    }

    pub fn top(&self) -> Result<Handle, Fault> {
        let group = self.marks.last().copied().unwrap_or(0);
        self.stack.get(group..).and_then(<[Handle]>::last).copied().ok_or_else(|| Fault::damaged("a value is used that is not there"))
    }

    pub fn pop(&mut self) -> Result<Handle, Fault> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The items since the last mark.
    pub fn group(&mut self) -> Result<Vec<Handle>, Fault> {
        let start = self.marks.pop().ok_or_else(|| Fault::damaged("a group of values has no beginning"))?;
        let start = start.min(self.stack.len());
        Ok(self.stack.drain(start..).collect())
    }

    pub fn byte(&mut self) -> Result<u8, Fault> {
        let (byte, rest) = self.rest.split_first().ok_or(Fault::Cut)?;
        self.rest = rest;
        Ok(*byte)
    }

    /// Up to eight bytes, the lowest first.
    pub fn number(&mut self, width: usize) -> Result<u64, Fault> {
        let bytes = self.take(width as u64)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    pub fn take(&mut self, length: u64) -> Result<&'a [u8], Fault> {
        let length = usize::try_from(length).map_err(|_| Fault::Cut)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Fault::Cut)?;
        self.rest = rest;
        Ok(taken)
    }
}

pub fn pairs_of(items: &[Handle]) -> Result<Vec<(Handle, Handle)>, Fault> {
    let (pairs, []) = items.as_chunks() else { return Err(Fault::damaged("a key without a value")) };
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}

fn too_large() -> Fault {
    Fault::damaged("a pickle with more values than a file of weights needs")
}
