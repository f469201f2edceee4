//! A column of one row group: its pages are found and unpacked here, within sizes that its bytes can give, and decoded by the `parquet` crate.

use super::codec::Codec;
use super::thrift::{I32, STRUCT, Thrift};
use crate::guard::guard;
use crate::place::Place;
use bytes::Bytes;
use parquet::basic::{Encoding, Repetition, Type as Kind};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::schema::types::{ColumnDescriptor, ColumnPath, Type};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Values decoded at a time.
const BATCH: usize = 1024;

/// A column's part of a row group.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Chunk {
    /// Its first byte in the file.
    pub start: u64,
    /// Its bytes there.
    pub length: u64,
    /// How they are packed.
    pub codec: Codec,
    /// What its values are.
    pub kind: Kind,
    /// The definition level of a value that is there.
    pub level: i16,
}

impl Chunk {
    /// Its bytes as they are stored.
    ///
    /// # Errors
    /// A file that is gone or has become shorter.
    fn read(&self, place: &Place, path: &Path) -> io::Result<Bytes> {
        place.read(path, Some(self.start..self.start + self.length)).map(Bytes::from)
    }

    /// The images of `rows` rows, none where a row has none, and the bytes that they take. Images that are not packed share the bytes read.
    ///
    /// # Errors
    /// A file that cannot be read; `InvalidData` where it is damaged.
    pub fn images(&self, place: &Place, path: &Path, rows: usize) -> io::Result<(Vec<Option<ByteArray>>, usize)> {
        let images = self.values::<ByteArrayType>(place, path, rows)?;
        let sum: usize = images.iter().map(|image| size_of_val(image) + image.as_ref().map_or(0, |image| image.as_ref().len())).sum();
        Ok((images, sum.max(self.length as usize)))
    }

    /// The integers of `rows` rows.
    ///
    /// # Errors
    /// As of images.
    pub fn numbers(&self, place: &Place, path: &Path, rows: usize) -> io::Result<Vec<Option<i64>>> {
        if self.kind == Kind::INT32 {
            return Ok(self.values::<Int32Type>(place, path, rows)?.into_iter().map(|value| value.map(i64::from)).collect());
        }
        self.values::<Int64Type>(place, path, rows)
    }

    fn values<T: DataType>(&self, place: &Place, path: &Path, rows: usize) -> io::Result<Vec<Option<T::T>>> {
        let bytes = self.read(place, path)?;
        // The crate may panic on hostile bytes, which must not end a training.
        let decoded = guard(|| self.decode::<T>(bytes, rows));
        let values = decoded.unwrap_or_else(|| Err(ParquetError::General("the decoder gave up on it".into())));
        values.map_err(|e| {
            let what = if let ParquetError::General(what) = e { what } else { e.to_string() };
            io::Error::new(io::ErrorKind::InvalidData, format!("its row group does not decode: {what}"))
        })
    }

    fn decode<T: DataType>(&self, bytes: Bytes, rows: usize) -> ParquetResult<Vec<Option<T::T>>> {
        let value = Type::primitive_type_builder("value", self.kind).with_repetition(Repetition::OPTIONAL).build()?;
        let column = ColumnDescriptor::new(Arc::new(value), self.level, 0, ColumnPath::new(Vec::new()));
        let pages = Pages { rest: bytes, codec: self.codec, rows, level: self.level, dictionary: false };
        let mut reader = ColumnReaderImpl::<T>::new(Arc::new(column), Box::new(pages));
        let (mut decoded, mut levels, mut values) = (Vec::new(), Vec::new(), Vec::new());
        while decoded.len() < rows {
            levels.clear();
            let (count, ..) = reader.read_records(BATCH.min(rows - decoded.len()), Some(&mut levels), None, &mut values)?;
            if count == 0 {
                return Err(ParquetError::General(format!("it says {rows} rows and holds {}", decoded.len())));
            }
            let mut values = values.drain(..);
            // Without levels every value is there.
            decoded.extend((0..count).map(|i| if levels.get(i).is_none_or(|&level| level == self.level) { values.next() } else { None }));
        }
        Ok(decoded)
    }
}

/// A page's header.
struct Header {
    kind: i64,
    unpacked: i64,
    packed: i64,
    /// The numbers that its kind of page has, by their fields' numbers.
    page: [i64; 8],
}

impl Header {
    fn read(thrift: &mut Thrift) -> Option<Header> {
        let mut header = Header { kind: -1, unpacked: -1, packed: -1, page: [-1; 8] };
        thrift.fields(|thrift, id, kind| {
            match (id, kind) {
                (1, I32) => header.kind = thrift.number()?,
                (2, I32) => header.unpacked = thrift.number()?,
                (3, I32) => header.packed = thrift.number()?,
                (5 | 7 | 8, STRUCT) => header.page = thrift.numbers()?,
                _ => thrift.skip(kind)?,
            }
            Some(())
        })?;
        Some(header)
    }
}

/// The pages of a column's part of a row group.
struct Pages {
    rest: Bytes,
    codec: Codec,
    rows: usize,
    /// The definition level of a value that is there.
    level: i16,
    /// Whether a dictionary has come.
    dictionary: bool,
}

impl Pages {
    /// The next page's header and body.
    fn next_packed(&mut self) -> Result<(Header, Bytes), String> {
        let mut thrift = Thrift(&self.rest);
        let header = Header::read(&mut thrift).ok_or("a page's header is none")?;
        let start = self.rest.len() - thrift.0.len();
        let end = usize::try_from(header.packed).ok().and_then(|packed| start.checked_add(packed));
        let end = end.filter(|&end| end <= self.rest.len()).ok_or("a page ends behind it")?;
        let body = self.rest.slice(start..end);
        self.rest = self.rest.slice(end..);
        Ok((header, body))
    }

    /// A page unpacked, none where it is not one of values.
    fn page(&mut self) -> Result<Option<Page>, String> {
        let (header, body) = self.next_packed()?;
        let length = |number: i64| usize::try_from(number).map_err(|_| "a page's header lacks a size".to_string());
        let codec = self.codec;
        let unpack = |body: Bytes| match codec {
            Codec::None => Ok(body),
            _ => codec.unpack(&[], &body, length(header.unpacked)?).map(Bytes::from),
        };
        let count = length(header.page[1]);
        match header.kind {
            // Data: values, encoding, encoding of the definition levels.
            0 => {
                if self.level > 0 && header.page[3] != 3 {
                    return Err("its levels are encoded in a way that is not read".into());
                }
                let (num_values, encoding) = (self.at_most_rows(count?)?, self.encoding(header.page[2])?);
                let (buf, rle) = (unpack(body)?, Encoding::RLE);
                Ok(Some(Page::DataPage { buf, num_values, encoding, def_level_encoding: rle, rep_level_encoding: rle, statistics: None }))
            }
            // A dictionary: values, each of at least four bytes.
            2 => {
                let (buf, count) = (unpack(body)?, count?);
                if count > buf.len() / 4 {
                    return Err(format!("a dictionary of {} bytes says that it has {count} values", buf.len()));
                }
                self.dictionary = true;
                Ok(Some(Page::DictionaryPage { buf, num_values: count as u32, encoding: Encoding::PLAIN, is_sorted: false }))
            }
            // Data: values, nulls, rows, encoding, bytes of definition and repetition levels, whether it is packed. The levels never are.
            3 => {
                let num_values = self.at_most_rows(count?)?;
                let [_, _, nulls, _, encoding, definitions, repetitions, packed] = header.page;
                let (definitions, repetitions) = (length(definitions)?, length(repetitions)?);
                let levels = definitions.saturating_add(repetitions);
                if levels > body.len() {
                    return Err("a page's levels are longer than it is".into());
                }
                let buf = if packed == 0 || codec == Codec::None {
                    body
                } else {
                    let values = length(header.unpacked)?.checked_sub(levels).ok_or("a page's levels are longer than it is")?;
                    codec.unpack(&body[..levels], &body[levels..], values)?.into()
                };
                Ok(Some(Page::DataPageV2 {
                    buf,
                    num_values,
                    encoding: self.encoding(encoding)?,
                    num_nulls: self.at_most_rows(length(nulls)?)?,
                    num_rows: num_values,
                    def_levels_byte_len: definitions as u32,
                    rep_levels_byte_len: repetitions as u32,
                    is_compressed: false,
                    statistics: None,
                }))
            }
            _ => Ok(None),
        }
    }

    fn at_most_rows(&self, count: usize) -> Result<u32, String> {
        if count > self.rows {
            return Err(format!("a page of {} rows says that it has {count}", self.rows));
        }
        u32::try_from(count).map_err(|e| e.to_string())
    }

    fn encoding(&self, number: i64) -> Result<Encoding, String> {
        match number {
            0 => Ok(Encoding::PLAIN),
            2 | 8 if self.dictionary => Ok(Encoding::RLE_DICTIONARY),
            2 | 8 => Err("its dictionary is missing".into()),
            5 => Ok(Encoding::DELTA_BINARY_PACKED),
            other => Err(format!("its values are encoded in a way that is not read ({other}); write them plain or with a dictionary")),
        }
    }
}

impl Iterator for Pages {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        while !self.rest.is_empty() {
            match self.page().map_err(ParquetError::General)? {
                // A page without values would end the column.
                Some(page) if page.is_dictionary_page() || page.num_values() > 0 => return Ok(Some(page)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        Err(ParquetError::General("pages are read one after the other".into()))
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        Err(ParquetError::General("pages are read one after the other".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page whose header has these numbers; those of its own struct from the first field on.
    fn page(kind: u8, unpacked: i64, packed: i64, numbers: &[i64], body: &[u8]) -> Vec<u8> {
        let number = |value: i64| {
            let mut value = (value << 1 ^ value >> 63) as u64;
            let mut bytes = vec![0x15];
            while value > 127 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            [bytes, vec![value as u8]].concat()
        };
        let sizes = [number(kind as i64), number(unpacked), number(packed)].concat();
        // From field 3 to the struct of its kind: 5 data, 6 index, 7 dictionary, 8 data of the second version.
        let own = numbers.iter().flat_map(|&value| number(value)).collect::<Vec<u8>>();
        [&sizes[..], &[[2, 3, 4, 5][kind as usize] << 4 | STRUCT], &own, &[0, 0], body].concat()
    }

    fn images(codec: Codec, rows: usize, pages: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pages"), pages.concat()).unwrap();
        let chunk = Chunk { start: 0, length: pages.concat().len() as u64, codec, kind: Kind::BYTE_ARRAY, level: 0 };
        let (images, _) = chunk.images(&Place::folder(folder.path()), Path::new("pages"), rows).map_err(|e| e.to_string())?;
        Ok(images.into_iter().map(|image| image.map(|image| image.data().to_vec())).collect())
    }

    /// The values "a" and "bc".
    const PLAIN: &[u8] = &[1, 0, 0, 0, b'a', 2, 0, 0, 0, b'b', b'c'];

    #[test]
    fn pages_plain_and_with_a_dictionary_are_decoded() {
        let (a, bc) = (Some(b"a".to_vec()), Some(b"bc".to_vec()));
        let plain = page(0, 11, 11, &[2, 0, 3, 3], PLAIN);
        let empty = page(0, 0, 0, &[0, 0, 3, 3], &[]);
        let index = page(1, 3, 3, &[], &[7; 3]);
        let dictionary = page(2, 11, 11, &[2, 0], PLAIN);
        // One bit a value; a run of eight values packed: 1, 0, 1 and nothing more.
        let numbers = page(0, 3, 3, &[3, 8, 3, 3], &[1, 3, 0b101]);
        // Three values, no nulls, three rows, encoding, no levels.
        let second = page(3, 3, 3, &[3, 0, 3, 8, 0, 0], &[1, 3, 0b010]);
        assert_eq!(images(Codec::None, 2, &[index, empty, plain.clone()]), Ok(vec![a.clone(), bc.clone()]));
        let all = [bc.clone(), a.clone(), bc.clone(), a.clone(), bc.clone(), a.clone(), a, bc].to_vec();
        assert_eq!(images(Codec::None, 8, &[dictionary, numbers, second, plain]), Ok(all));
    }

    #[test]
    fn pages_that_cannot_be_are_refused_and_nothing_is_reserved_for_them() {
        let says = |codec: Codec, rows: usize, pages: &[Vec<u8>], word: &str| {
            let error = images(codec, rows, pages).unwrap_err();
            assert!(error.contains(word) && !error.contains('\n'), "{word}: {error}");
        };
        let (none, huge) = (Codec::None, i32::MAX as i64);
        says(none, 3, &[page(0, 11, 11, &[2, 0, 3, 3], PLAIN)], "says 3 rows and holds 2");
        says(none, 3, &[page(0, 11, 11, &[4, 0, 3, 3], PLAIN)], "says that it has 4");
        says(none, 9, &[page(0, 11, 11, &[9, 0, 3, 3], PLAIN)], "does not decode");
        says(none, 2, &[page(0, 11, 12, &[2, 0, 3, 3], PLAIN)], "ends behind");
        says(none, 2, &[page(0, 11, i64::MAX, &[2, 0, 3, 3], PLAIN)], "ends behind");
        says(none, 2, &[page(0, 11, -1, &[2, 0, 3, 3], PLAIN)], "ends behind");
        says(none, 2, &[page(0, 11, 11, &[2, 6, 3, 3], PLAIN)], "not read (6)");
        says(none, 2, &[page(0, 11, 11, &[2, 8, 3, 3], PLAIN)], "dictionary is missing");
        says(none, 2, &[page(2, 11, 11, &[huge, 0], PLAIN)], "dictionary of 11 bytes");
        says(none, 2, &[page(3, 11, 11, &[2, 0, 2, 0, huge, huge], PLAIN)], "levels are longer");
        says(none, 2, &[vec![0xff; 50]], "header");
        says(Codec::Snappy, 2, &[page(0, huge, 11, &[2, 0, 3, 3], PLAIN)], "unpacks to 2147483647");
        // Values longer than the page.
        says(none, 1, &[page(0, 5, 5, &[1, 0, 3, 3], &[255, 255, 255, 255, 0])], "does not decode");
    }
}
