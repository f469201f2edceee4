//! Stack machine of pickles: its values, its memo, and the operations that instructions consist of.

use super::super::read_error::ReadError;
use super::value::{Handle, Value, get, global, items};
use std::collections::HashMap;

/// Number of the value `None`.
pub const NONE: Handle = 0;
/// Number of the value `True`.
pub const TRUE: Handle = 1;
/// Number of the value `False`.
pub const FALSE: Handle = 2;
/// Number of the empty tuple.
pub const EMPTY_TUPLE: Handle = 3;

/// State of the stack machine.
pub struct Machine<'a> {
    /// Instructions that are not yet executed.
    pub rest: &'a [u8],
    /// All values.
    pub values: Vec<Value<'a>>,
    /// Values on the stack.
    pub stack: Vec<Handle>,
    /// Lengths of the stack at the beginnings of groups of items.
    pub marks: Vec<usize>,
    /// Values by their number in the memo.
    pub memo: HashMap<u64, Handle>,
    /// Number of items that may still be copied from one value to another, or inspected for that.
    copies: usize,
}

impl<'a> Machine<'a> {
    /// Prepares the execution of a pickle.
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

    /// Checks that a pickle has no more values than weights need. An instruction adds few of them,
    /// so a check after each instruction is enough.
    pub fn check_size(&self) -> Result<(), ReadError> {
        const MOST: usize = 8_000_000;
        let sizes = [self.values.len(), self.stack.len(), self.marks.len(), self.memo.len()];
        if sizes.iter().any(|size| *size > MOST) { Err(too_large()) } else { Ok(()) }
    }

    /// Returns the number of bytes after the executed instructions.
    pub fn unread(&self) -> usize {
        self.rest.len()
    }

    /// Records a call of the value on the stack. A few classes are plain containers and are read as
    /// such.
    pub fn call(&mut self, args: Handle) -> Result<(), ReadError> {
        let called = self.pop()?;
        let class = match get(&self.values, called) {
            Value::Global { .. } => called,
            // The result of calling an object is as unknown as the object.
            Value::Object { class, .. } => *class,
            _ => return Err(ReadError::damaged("a value is called that is not a class")),
        };
        let arguments = items(&self.values, args).unwrap_or_default();
        match global(&self.values, class) {
            Some(("collections", "OrderedDict") | ("builtins" | "__builtin__", "dict")) => {
                let (inspected, pairs) = self.pairs(arguments);
                self.copies = self.copies.checked_sub(inspected).ok_or_else(too_large)?;
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

    /// Returns the entries of a dict by its arguments: none or, as Python 2 writes it, a list of
    /// pairs. The first number is that of the inspected items.
    fn pairs(&self, arguments: &[Handle]) -> (usize, Option<Vec<(Handle, Handle)>>) {
        let [list] = arguments else { return (0, arguments.is_empty().then(Vec::new)) };
        let Some(list) = items(&self.values, *list) else { return (0, None) };
        let pair = |item: &Handle| match items(&self.values, *item) {
            Some([key, value]) => Some((*key, *value)),
            _ => None,
        };
        (list.len(), list.iter().map(pair).collect())
    }

    /// Appends items to the list on the stack.
    pub fn append(&mut self, mut items: Vec<Handle>) -> Result<(), ReadError> {
        let target = self.top()?;
        match self.values.get_mut(target as usize) {
            Some(Value::List(list)) => list.append(&mut items),
            Some(Value::Object { .. } | Value::Other(_)) => {}
            _ => return Err(ReadError::damaged("an item is added to a value that is not a list")),
        }
        Ok(())
    }

    /// Adds keys and values to the dict on the stack.
    pub fn insert(&mut self, items: &[Handle]) -> Result<(), ReadError> {
        let pairs = pairs_of(items)?;
        let target = self.top()?;
        match self.values.get_mut(target as usize) {
            Some(Value::Dict(dict)) => dict.extend(pairs),
            Some(Value::Object { .. } | Value::Other(_)) => {}
            _ => return Err(ReadError::damaged("an entry is added to a value that is not a dict")),
        }
        Ok(())
    }

    /// Stores the value on the stack in the memo, under a number of `width` bytes.
    pub fn memorize(&mut self, width: usize) -> Result<(), ReadError> {
        let slot = self.number(width)?;
        self.memo.insert(slot, self.top()?);
        Ok(())
    }

    /// Pushes a value from the memo, by a number of `width` bytes.
    pub fn recall(&mut self, width: usize) -> Result<(), ReadError> {
        let slot = self.number(width)?;
        self.recall_slot(slot)
    }

    /// Pushes a value from the memo.
    pub fn recall_slot(&mut self, slot: u64) -> Result<(), ReadError> {
        let value = self.memo.get(&slot).ok_or_else(|| ReadError::damaged("a value is used before it is stored"))?;
        self.stack.push(*value);
        Ok(())
    }

    /// Pushes an integer of `width` bytes.
    pub fn push_int(&mut self, width: usize) -> Result<(), ReadError> {
        let value = self.number(width)?;
        self.push(Value::Int(value.into()))
    }

    /// Pushes an integer whose length has `width` bytes.
    pub fn push_long(&mut self, width: usize) -> Result<(), ReadError> {
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

    /// Pushes a text whose length has `width` bytes.
    pub fn push_text(&mut self, width: usize) -> Result<(), ReadError> {
        let length = self.number(width)?;
        let bytes = self.take(length)?;
        self.push(Value::Text(String::from_utf8_lossy(bytes)))
    }

    /// Pushes a value of a class that is not read, whose length has `width` bytes.
    pub fn push_opaque(&mut self, width: usize, class: &'static str) -> Result<(), ReadError> {
        let length = self.number(width)?;
        self.take(length)?;
        self.push(Value::Other(class))
    }

    /// Pushes a tuple of the top items of the stack.
    pub fn push_tuple(&mut self, items: usize) -> Result<(), ReadError> {
        let mut tuple = Vec::with_capacity(items);
        for _ in 0..items {
            tuple.push(self.pop()?);
        }
        tuple.reverse();
        self.push(Value::Tuple(tuple))
    }

    /// Pushes a new value.
    pub fn push(&mut self, value: Value<'a>) -> Result<(), ReadError> {
        let handle = self.add(value)?;
        self.stack.push(handle);
        Ok(())
    }

    /// Adds a value without pushing it.
    pub fn add(&mut self, value: Value<'a>) -> Result<Handle, ReadError> {
        let handle = Handle::try_from(self.values.len()).map_err(|_| too_large())?;
        self.values.push(value);
        Ok(handle)
    }

    /// Returns the value on top of the stack.
    pub fn top(&self) -> Result<Handle, ReadError> {
        let group = self.marks.last().copied().unwrap_or(0);
        self.stack.get(group..).and_then(<[Handle]>::last).copied().ok_or_else(|| ReadError::damaged("a value is missing on the stack"))
    }

    /// Pops the value on top of the stack.
    pub fn pop(&mut self) -> Result<Handle, ReadError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Pops the items since the last mark.
    pub fn group(&mut self) -> Result<Vec<Handle>, ReadError> {
        let start = self.marks.pop().ok_or_else(|| ReadError::damaged("a group of values has no beginning"))?;
        let start = start.min(self.stack.len());
        Ok(self.stack.drain(start..).collect())
    }

    /// Reads a byte.
    pub fn byte(&mut self) -> Result<u8, ReadError> {
        let (byte, rest) = self.rest.split_first().ok_or(ReadError::Truncated)?;
        self.rest = rest;
        Ok(*byte)
    }

    /// Reads a number of up to eight bytes, little-endian.
    pub fn number(&mut self, width: usize) -> Result<u64, ReadError> {
        let bytes = self.take(width as u64)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Reads bytes.
    pub fn take(&mut self, length: u64) -> Result<&'a [u8], ReadError> {
        let length = usize::try_from(length).map_err(|_| ReadError::Truncated)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ReadError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Pairs up keys and values.
pub fn pairs_of(items: &[Handle]) -> Result<Vec<(Handle, Handle)>, ReadError> {
    let (pairs, []) = items.as_chunks() else { return Err(ReadError::damaged("a key has no value")) };
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}

fn too_large() -> ReadError {
    ReadError::damaged("the pickle has more values than weights need")
}
