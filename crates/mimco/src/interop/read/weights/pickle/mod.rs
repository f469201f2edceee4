//! Pickles of Python, protocols 0 to 5, read as data. The stack machine runs, but a class or
//! function is only a name, and a call only a record. Values are entries of one list that refer to
//! each other by number, so shared, cyclic and deeply nested values are cheap. No instruction
//! copies more items than the pickle has bytes, which bounds the memory by a multiple of the
//! pickle's size.

mod lines;
mod machine;
mod value;

use super::read_error::ReadError;
use machine::{EMPTY_TUPLE, FALSE, Machine, NONE, TRUE, pairs_of};
pub(super) use value::{Handle, Value};
use value::{get, global, items, text};

/// Parsed pickle.
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    /// Value that the pickle describes.
    pub top: Handle,
    /// Length in bytes.
    pub length: usize,
}

impl<'a> Pickle<'a> {
    /// Parses the pickle at the beginning of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Pickle<'a>, ReadError> {
        let mut machine = Machine::new(bytes);
        loop {
            match machine.byte()? {
                b'.' => break,
                instruction => machine.step(instruction)?,
            }
            machine.check_size()?;
        }
        let top = machine.pop()?;
        let length = bytes.len() - machine.unread();
        Ok(Pickle { values: machine.values, top, length })
    }

    /// Returns a value.
    pub fn get(&self, handle: Handle) -> &Value<'a> {
        get(&self.values, handle)
    }

    /// Iterates over all values.
    pub fn values(&self) -> impl Iterator<Item = &Value<'a>> {
        self.values.iter()
    }

    /// Returns the text of a value of that type.
    pub fn text(&self, handle: Handle) -> Option<&str> {
        text(&self.values, handle)
    }

    /// Returns the items of a tuple or list.
    pub fn items(&self, handle: Handle) -> Option<&[Handle]> {
        items(&self.values, handle)
    }

    /// Returns an integer, if it fits the type.
    pub fn int<T: TryFrom<i128>>(&self, handle: Handle) -> Option<T> {
        if let Value::Int(value) = self.get(handle) { T::try_from(*value).ok() } else { None }
    }

    /// Returns the module and the name of a class or function.
    pub fn global(&self, handle: Handle) -> Option<(&str, &str)> {
        global(&self.values, handle)
    }
}

impl<'a> Machine<'a> {
    /// Executes an instruction, which is identified by its byte in the format.
    fn step(&mut self, instruction: u8) -> Result<(), ReadError> {
        match instruction {
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => {
                self.marks.pop();
            }
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.group()?;
            }
            b'2' => self.stack.push(self.top()?),

            b'p' => self.memorize_by_line()?,
            b'q' => self.memorize(1)?,
            b'r' => self.memorize(4)?,
            0x94 => {
                self.memo.insert(self.memo.len() as u64, self.top()?);
            }
            b'g' => self.recall_by_line()?,
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,

            b'N' => self.stack.push(NONE),
            0x88 => self.stack.push(TRUE),
            0x89 => self.stack.push(FALSE),
            b'K' => self.push_int(1)?,
            b'M' => self.push_int(2)?,
            b'J' => {
                let value = self.number(4)? as u32 as i32;
                self.push(Value::Int(value.into()))?;
            }
            0x8a => self.push_long(1)?,
            0x8b => self.push_long(4)?,
            b'G' => {
                let value = f64::from_bits(self.number(8)?.swap_bytes());
                self.push(Value::Float(value))?;
            }
            b'I' | b'L' => self.push_int_by_line()?,
            b'F' => self.push_float_by_line()?,

            b'X' => self.push_text(4)?,
            0x8c => self.push_text(1)?,
            0x8d => self.push_text(8)?,
            // Python 2's strings are bytes, but names are written as such.
            b'U' => self.push_text(1)?,
            b'T' => self.push_text(4)?,
            b'S' => self.push_text_by_line(true)?,
            b'V' => self.push_text_by_line(false)?,
            b'C' => self.push_opaque(1, "builtins.bytes")?,
            b'B' => self.push_opaque(4, "builtins.bytes")?,
            0x8e => self.push_opaque(8, "builtins.bytes")?,
            0x96 => self.push_opaque(8, "builtins.bytearray")?,

            b')' => self.stack.push(EMPTY_TUPLE),
            0x85 => self.push_tuple(1)?,
            0x86 => self.push_tuple(2)?,
            0x87 => self.push_tuple(3)?,
            b't' => {
                let items = self.group()?;
                self.push(Value::Tuple(items))?;
            }
            b']' => self.push(Value::List(Vec::new()))?,
            b'l' => {
                let items = self.group()?;
                self.push(Value::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.group()?;
                self.append(items)?;
            }
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'd' => {
                let items = self.group()?;
                self.push(Value::Dict(pairs_of(&items)?))?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.group()?;
                self.insert(&items)?;
            }
            0x8f => self.push(Value::Other("builtins.set"))?,
            0x90 => {
                self.group()?;
                self.top()?;
            }
            0x91 => {
                self.group()?;
                self.push(Value::Other("builtins.frozenset"))?;
            }

            b'c' => {
                let class = self.global_by_lines()?;
                self.stack.push(class);
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                if text(&self.values, module).is_none() || text(&self.values, name).is_none() {
                    return Err(ReadError::damaged("a class has no name"));
                }
                self.push(Value::Global { module, name })?;
            }
            b'R' | 0x81 => {
                let args = self.pop()?;
                self.call(args)?;
            }
            0x92 => {
                self.pop()?;
                let args = self.pop()?;
                self.call(args)?;
            }
            b'i' => {
                let class = self.global_by_lines()?;
                let items = self.group()?;
                self.stack.push(class);
                let args = self.add(Value::Tuple(items))?;
                self.call(args)?;
            }
            b'o' => {
                let mut items = self.group()?;
                if items.is_empty() {
                    return Err(ReadError::damaged("a call has no function"));
                }
                self.stack.push(items.remove(0));
                let args = self.add(Value::Tuple(items))?;
                self.call(args)?;
            }
            b'b' => {
                let new = self.pop()?;
                let target = self.top()?;
                if let Some(Value::Object { state, .. }) = self.values.get_mut(target as usize) {
                    *state = new;
                }
            }
            b'P' => {
                let line = self.line()?;
                let name = self.add(Value::Text(String::from_utf8_lossy(line)))?;
                self.push(Value::Persistent(name))?;
            }
            b'Q' => {
                let id = self.pop()?;
                match items(&self.values, id) {
                    // The old format wraps the class of a pickled module like this.
                    Some([kind, class, ..]) if text(&self.values, *kind) == Some("module") => self.stack.push(*class),
                    _ => self.push(Value::Persistent(id))?,
                }
            }

            0x80 => {
                let protocol = self.byte()?;
                if protocol > 5 {
                    return Err(ReadError::Damaged(format!("the pickle has the unknown protocol {protocol}")));
                }
            }
            // A frame only determines how much to read at once.
            0x95 => {
                let length = self.number(8)?;
                if length > self.unread() as u64 {
                    return Err(ReadError::Truncated);
                }
            }
            0x82..=0x84 => return Err(ReadError::damaged("the pickle needs Python's registry of extensions")),
            0x97 | 0x98 => return Err(ReadError::damaged("the pickle needs buffers outside it")),
            other => return Err(ReadError::Damaged(format!("the pickle has the unknown instruction {other:#04x}"))),
        }
        Ok(())
    }
}
