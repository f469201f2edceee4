//! Thrift's compact encoding, as far as footers and page headers of Parquet files need it. No
//! memory is allocated by claimed sizes, a list has at most one element per byte, and nesting is
//! bounded. The reader of the `parquet` crate is not public.

pub(super) const I32: u8 = 5;
pub(super) const I64: u8 = 6;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;

/// Limit of the nesting of skipped structs and lists.
const MAX_DEPTH: u32 = 16;

/// The bytes still to read. Every function returns `None` if the bytes end early or are invalid.
pub(super) struct Thrift<'a>(pub &'a [u8]);

impl<'a> Thrift<'a> {
    /// Takes the next bytes.
    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// Reads a number of seven bits per byte, the lowest first.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= ((byte & 0x7f) as u64) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Reads an integer with its sign in the lowest bit.
    pub fn number(&mut self) -> Option<i64> {
        self.varint().map(|value| (value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Reads a string's bytes.
    pub fn binary(&mut self) -> Option<&'a [u8]> {
        let length = self.varint()?;
        self.take(length)
    }

    /// Reads a struct: `field` gets each field's number and type, and reads it.
    pub fn fields(&mut self, mut field: impl FnMut(&mut Self, i16, u8) -> Option<()>) -> Option<()> {
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            if head & 15 == 0 {
                return Some(());
            }
            id = match head >> 4 {
                0 => i16::try_from(self.number()?).ok()?,
                step => id.checked_add(step as i16)?,
            };
            field(self, id, head & 15)?;
        }
    }

    /// Reads a list: `element` gets the elements' type, and reads one.
    pub fn list(&mut self, mut element: impl FnMut(&mut Self, u8) -> Option<()>) -> Option<()> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.varint()? } else { (head >> 4) as u64 };
        (0..count).try_for_each(|_| element(self, head & 15))
    }

    /// Reads a list of structs.
    pub fn structs(&mut self, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.list(|thrift, kind| if kind == STRUCT { element(thrift) } else { None })
    }

    /// Skips a field.
    pub fn skip(&mut self, kind: u8) -> Option<()> {
        self.skip_within(kind, MAX_DEPTH)
    }

    fn skip_within(&mut self, kind: u8, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            1 | 2 => Some(()), // true and false, fields without bytes
            3 => self.byte().map(drop),
            4..=I64 => self.varint().map(drop),
            7 => self.take(8).map(drop),
            BINARY => self.binary().map(drop),
            // In a list, `true` and `false` are stored as bytes.
            LIST | 10 => self.list(|thrift, kind| thrift.skip_within(kind.max(3), depth)),
            STRUCT => self.fields(|thrift, _, kind| thrift.skip_within(kind, depth)),
            _ => None,
        }
    }

    /// Reads a struct's integers and booleans (as 1 and 0) by field numbers below `N`; missing ones
    /// are -1.
    pub fn numbers<const N: usize>(&mut self) -> Option<[i64; N]> {
        let mut numbers = [-1; N];
        self.fields(|thrift, id, kind| {
            let value = match kind {
                1 => 1,
                2 => 0,
                I32 | I64 => thrift.number()?,
                _ => return thrift.skip(kind),
            };
            if let Some(slot) = usize::try_from(id).ok().and_then(|id| numbers.get_mut(id)) {
                *slot = value;
            }
            Some(())
        })?;
        Some(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structs_numbers_are_read_and_the_rest_is_skipped() {
        // 1: i32 3, 2: string "ab", 3: true, 20 (long form): list of two structs { 1: i64 0 }, 21:
        // false, 4 (long form): i64 -150.
        let bytes = [0x15, 6, 0x18, 2, b'a', b'b', 0x11, 0x09, 40, 0x2c, 0x16, 0, 0, 0x16, 0, 0, 0x12, 0x06, 8, 0xab, 2, 0, 99];
        let mut thrift = Thrift(&bytes);
        assert_eq!(thrift.numbers(), Some([-1, 3, -1, 1, -150]));
        assert_eq!(thrift.0, [99]);
        for end in 0..bytes.len() - 1 {
            assert_eq!(Thrift(&bytes[..end]).numbers::<5>(), None, "{end}");
        }
    }

    #[test]
    fn huge_and_deeply_nested_values_are_errors_at_once() {
        let list = |kind: u8| [&[0x19, 0xf0 | kind][..], &[0xff; 9], &[1], &[0; 40]].concat();
        for kind in 0..16 {
            assert_eq!(Thrift(&list(kind)).skip(STRUCT), None, "{kind}");
        }
        assert_eq!(Thrift(&[&[0xff; 9][..], &[1, 7]].concat()).binary(), None);
        assert_eq!(Thrift(&[0xff; 20]).number(), None);
        assert_eq!(Thrift(&[0x19; 1 << 20]).skip(LIST), None);
        assert_eq!(Thrift(&[0x1c; 1 << 20]).skip(STRUCT), None);
    }
}
