//! Instructions of protocol 0, whose arguments are lines of text.

use super::super::read_error::ReadError;
use super::machine::Machine;
use super::value::{Handle, Value};
use std::borrow::Cow;

impl<'a> Machine<'a> {
    /// Reads a line without its end.
    pub fn line(&mut self) -> Result<&'a [u8], ReadError> {
        let length = self.rest.iter().position(|b| *b == b'\n').ok_or(ReadError::Truncated)?;
        let line = self.take(length as u64)?;
        self.byte()?;
        Ok(line)
    }

    /// Stores the value on the stack in the memo.
    pub fn memorize_by_line(&mut self) -> Result<(), ReadError> {
        let slot = self.slot()?;
        self.memo.insert(slot, self.top()?);
        Ok(())
    }

    /// Pushes a value from the memo.
    pub fn recall_by_line(&mut self) -> Result<(), ReadError> {
        let slot = self.slot()?;
        self.recall_slot(slot)
    }

    /// Pushes an integer. Truth values are integers of two digits; Python 2's long integers end
    /// with L.
    pub fn push_int_by_line(&mut self) -> Result<(), ReadError> {
        let line = self.line()?;
        let digits = line.strip_suffix(b"L").unwrap_or(line);
        self.push(match digits {
            b"00" => Value::Bool(false),
            b"01" => Value::Bool(true),
            _ => match parse(digits) {
                Some(value) => Value::Int(value),
                None if digits.len() > 38 => Value::Other("builtins.int"),
                None => return Err(ReadError::damaged("an integer is invalid")),
            },
        })
    }

    /// Pushes a floating-point number.
    pub fn push_float_by_line(&mut self) -> Result<(), ReadError> {
        let value = parse(self.line()?).ok_or_else(|| ReadError::damaged("a number is invalid"))?;
        self.push(Value::Float(value))
    }

    /// Pushes a text. Python 2's are in quotes.
    pub fn push_text_by_line(&mut self, in_quotes: bool) -> Result<(), ReadError> {
        let line = self.line()?;
        let bare = match line {
            [b'\'', bare @ .., b'\''] | [b'"', bare @ .., b'"'] if in_quotes => bare,
            _ => line,
        };
        self.push(Value::Text(unescape(bare)))
    }

    /// Adds a class or function by the lines of its module and name.
    pub fn global_by_lines(&mut self) -> Result<Handle, ReadError> {
        let (module, name) = (self.line()?, self.line()?);
        let module = self.add(Value::Text(String::from_utf8_lossy(module)))?;
        let name = self.add(Value::Text(String::from_utf8_lossy(name)))?;
        self.add(Value::Global { module, name })
    }

    fn slot(&mut self) -> Result<u64, ReadError> {
        parse(self.line()?).ok_or_else(|| ReadError::damaged("a value is stored under an invalid number"))
    }
}

fn parse<T: std::str::FromStr>(line: &[u8]) -> Option<T> {
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

/// Decodes Latin-1 with Python's escapes. Unknown escapes stay as they are.
fn unescape(line: &[u8]) -> Cow<'_, str> {
    if line.is_ascii() && !line.contains(&b'\\') {
        return String::from_utf8_lossy(line);
    }
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((byte, after)) = rest.split_first() {
        let (letter, width) = match (byte, after.first()) {
            (b'\\', Some(b'x')) => (None, 2),
            (b'\\', Some(b'u')) => (None, 4),
            (b'\\', Some(b'U')) => (None, 8),
            (b'\\', Some(b'n')) => (Some('\n'), 0),
            (b'\\', Some(b'r')) => (Some('\r'), 0),
            (b'\\', Some(b't')) => (Some('\t'), 0),
            (b'\\', Some(quoted @ (b'\\' | b'\'' | b'"'))) => (Some(char::from(*quoted)), 0),
            _ => (None, 0),
        };
        let code = || u32::from_str_radix(std::str::from_utf8(after.get(1..=width)?).ok()?, 16).ok().and_then(char::from_u32);
        let (letter, used) = match letter.or_else(|| if width > 0 { code() } else { None }) {
            Some(letter) => (letter, 2 + width),
            None => (char::from(*byte), 1),
        };
        text.push(letter);
        rest = rest.get(used..).unwrap_or_default();
    }
    Cow::Owned(text)
}
