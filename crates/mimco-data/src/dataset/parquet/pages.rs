//! The pages of a column in one row group. They are located and decompressed here, with sizes
//! bounded by the bytes of the file, and decoded by the `parquet` crate.

use crate::dataset::parquet::codec::Codec;
use crate::dataset::parquet::thrift::{I32, STRUCT, Thrift};
use crate::decode::guard::guard;
use crate::storage::Storage;
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

/// Number of values decoded at a time.
const BATCH: usize = 1024;

/// The part of a column in a row group.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Chunk {
    /// Offset of the first byte in the file.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// Compression.
    pub codec: Codec,
    /// Type of the values.
    pub kind: Kind,
    /// Definition level of a present value.
    pub level: i16,
}

impl Chunk {
    /// Reads the chunk's bytes as they are stored.
    ///
    /// # Errors
    /// Fails if the file is missing or has become shorter.
    fn read(&self, storage: &Storage, path: &Path) -> io::Result<Bytes> {
        storage.read(path, Some(self.start..self.start + self.length)).map(Bytes::from)
    }

    /// Returns the images of `rows` rows, `None` for rows without an image, and the memory that
    /// they use in bytes. Uncompressed images share the bytes read.
    ///
    /// # Errors
    /// Fails if the file cannot be read, and with `InvalidData` if it is damaged.
    pub fn images(&self, storage: &Storage, path: &Path, rows: usize) -> io::Result<(Vec<Option<ByteArray>>, usize)> {
        let images = self.values::<ByteArrayType>(storage, path, rows)?;
        let sum: usize = images.iter().map(|image| size_of_val(image) + image.as_ref().map_or(0, |image| image.as_ref().len())).sum();
        Ok((images, sum.max(self.length as usize)))
    }

    /// Returns the integers of `rows` rows.
    ///
    /// # Errors
    /// Fails as [`Chunk::images`] does.
    pub fn numbers(&self, storage: &Storage, path: &Path, rows: usize) -> io::Result<Vec<Option<i64>>> {
        if self.kind == Kind::INT32 {
            return Ok(self.values::<Int32Type>(storage, path, rows)?.into_iter().map(|value| value.map(i64::from)).collect());
        }
        self.values::<Int64Type>(storage, path, rows)
    }

    fn values<T: DataType>(&self, storage: &Storage, path: &Path, rows: usize) -> io::Result<Vec<Option<T::T>>> {
        let bytes = self.read(storage, path)?;
        // The crate may panic on hostile bytes, which must not end a training run.
        let decoded = guard(|| self.decode::<T>(bytes, rows));
        let values = decoded.unwrap_or_else(|| Err(ParquetError::General("the decoder failed".into())));
        values.map_err(|e| {
            let what = if let ParquetError::General(what) = e { what } else { e.to_string() };
            io::Error::new(io::ErrorKind::InvalidData, format!("its row group cannot be decoded: {what}"))
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
                return Err(ParquetError::General(format!("its header claims {rows} rows, but it contains {}", decoded.len())));
            }
            let mut values = values.drain(..);
            // Without levels every value is present.
            decoded.extend((0..count).map(|i| if levels.get(i).is_none_or(|&level| level == self.level) { values.next() } else { None }));
        }
        Ok(decoded)
    }
}

/// The header of a page; numbers that are missing are -1.
struct Header {
    kind: i64,
    decompressed: i64,
    compressed: i64,
    /// The integers of the struct for this kind of page, by field number.
    page: [i64; 8],
}

impl Header {
    fn read(thrift: &mut Thrift) -> Option<Header> {
        let mut header = Header { kind: -1, decompressed: -1, compressed: -1, page: [-1; 8] };
        thrift.fields(|thrift, id, kind| {
            match (id, kind) {
                (1, I32) => header.kind = thrift.number()?,
                (2, I32) => header.decompressed = thrift.number()?,
                (3, I32) => header.compressed = thrift.number()?,
                (5 | 7 | 8, STRUCT) => header.page = thrift.numbers()?,
                _ => thrift.skip(kind)?,
            }
            Some(())
        })?;
        Some(header)
    }
}

/// The pages of a chunk.
struct Pages {
    rest: Bytes,
    codec: Codec,
    rows: usize,
    /// Definition level of a present value.
    level: i16,
    /// Whether a dictionary page was read.
    dictionary: bool,
}

impl Pages {
    /// Returns the header and the stored bytes of the next page.
    fn next_compressed(&mut self) -> Result<(Header, Bytes), String> {
        let mut thrift = Thrift(&self.rest);
        let header = Header::read(&mut thrift).ok_or("a page has an invalid header")?;
        let start = self.rest.len() - thrift.0.len();
        let end = usize::try_from(header.compressed).ok().and_then(|compressed| start.checked_add(compressed));
        let end = end.filter(|&end| end <= self.rest.len()).ok_or("a page ends after its row group")?;
        let body = self.rest.slice(start..end);
        self.rest = self.rest.slice(end..);
        Ok((header, body))
    }

    /// Returns the next page decompressed; `None` if it contains no values.
    fn page(&mut self) -> Result<Option<Page>, String> {
        let (header, body) = self.next_compressed()?;
        let length = |number: i64| usize::try_from(number).map_err(|_| "a page's header has no valid size".to_string());
        let codec = self.codec;
        let decompress = |body: Bytes| match codec {
            Codec::None => Ok(body),
            _ => codec.decompress(&[], &body, length(header.decompressed)?).map(Bytes::from),
        };
        let count = length(header.page[1]);
        match header.kind {
            // Data page: number of values, encoding, encoding of the definition levels.
            0 => {
                if self.level > 0 && header.page[3] != 3 {
                    return Err("the encoding of its levels is not supported".into());
                }
                let (num_values, encoding) = (self.at_most_rows(count?)?, self.encoding(header.page[2])?);
                let (buf, rle) = (decompress(body)?, Encoding::RLE);
                Ok(Some(Page::DataPage { buf, num_values, encoding, def_level_encoding: rle, rep_level_encoding: rle, statistics: None }))
            }
            // Dictionary page: number of values, of at least four bytes each.
            2 => {
                let (buf, count) = (decompress(body)?, count?);
                if count > buf.len() / 4 {
                    return Err(format!("a dictionary of {} bytes claims {count} values", buf.len()));
                }
                self.dictionary = true;
                Ok(Some(Page::DictionaryPage { buf, num_values: count as u32, encoding: Encoding::PLAIN, is_sorted: false }))
            }
            // Data page, version 2: number of values, nulls and rows, encoding, bytes of definition
            // and repetition levels, whether the values are compressed. Levels are never
            // compressed.
            3 => {
                let num_values = self.at_most_rows(count?)?;
                let [_, _, nulls, _, encoding, definitions, repetitions, compressed] = header.page;
                let (definitions, repetitions) = (length(definitions)?, length(repetitions)?);
                let levels = definitions.saturating_add(repetitions);
                if levels > body.len() {
                    return Err("a page's levels are longer than the page".into());
                }
                let buf = if compressed == 0 || codec == Codec::None {
                    body
                } else {
                    let values = length(header.decompressed)?.checked_sub(levels).ok_or("a page's levels are longer than the page")?;
                    codec.decompress(&body[..levels], &body[levels..], values)?.into()
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
            return Err(format!("a page of a row group of {} rows claims {count} values", self.rows));
        }
        u32::try_from(count).map_err(|e| e.to_string())
    }

    fn encoding(&self, number: i64) -> Result<Encoding, String> {
        match number {
            0 => Ok(Encoding::PLAIN),
            2 | 8 if self.dictionary => Ok(Encoding::RLE_DICTIONARY),
            2 | 8 => Err("its dictionary is missing".into()),
            5 => Ok(Encoding::DELTA_BINARY_PACKED),
            other => Err(format!("the encoding of its values ({other}) is not supported; use plain or dictionary encoding")),
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
                // A page without values would end the column early.
                Some(page) if page.is_dictionary_page() || page.num_values() > 0 => return Ok(Some(page)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        Err(ParquetError::General("pages are read in sequence".into()))
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        Err(ParquetError::General("pages are read in sequence".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a page with these numbers in its header; `numbers` are the fields of the kind's
    /// struct.
    fn page(kind: u8, decompressed: i64, compressed: i64, numbers: &[i64], body: &[u8]) -> Vec<u8> {
        let number = |value: i64| {
            let mut value = (value << 1 ^ value >> 63) as u64;
            let mut bytes = vec![0x15];
            while value > 127 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            [bytes, vec![value as u8]].concat()
        };
        let sizes = [number(kind as i64), number(decompressed), number(compressed)].concat();
        // The struct's field: 5 data, 6 index, 7 dictionary, 8 data of version 2.
        let own = numbers.iter().flat_map(|&value| number(value)).collect::<Vec<u8>>();
        [&sizes[..], &[[2, 3, 4, 5][kind as usize] << 4 | STRUCT], &own, &[0, 0], body].concat()
    }

    fn images(codec: Codec, rows: usize, pages: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pages"), pages.concat()).unwrap();
        let chunk = Chunk { start: 0, length: pages.concat().len() as u64, codec, kind: Kind::BYTE_ARRAY, level: 0 };
        let (images, _) = chunk.images(&Storage::folder(folder.path()), Path::new("pages"), rows).map_err(|e| e.to_string())?;
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
        // One bit per value; a bit-packed run of eight values: 1, 0, 1 and zeros.
        let numbers = page(0, 3, 3, &[3, 8, 3, 3], &[1, 3, 0b101]);
        // Three values, no nulls, three rows, encoding, no levels.
        let second = page(3, 3, 3, &[3, 0, 3, 8, 0, 0], &[1, 3, 0b010]);
        assert_eq!(images(Codec::None, 2, &[index, empty, plain.clone()]), Ok(vec![a.clone(), bc.clone()]));
        let all = [bc.clone(), a.clone(), bc.clone(), a.clone(), bc.clone(), a.clone(), a, bc].to_vec();
        assert_eq!(images(Codec::None, 8, &[dictionary, numbers, second, plain]), Ok(all));
    }

    #[test]
    fn impossible_pages_are_errors_and_nothing_is_allocated_for_them() {
        let fails = |codec: Codec, rows: usize, pages: &[Vec<u8>], word: &str| {
            let error = images(codec, rows, pages).unwrap_err();
            assert!(error.contains(word) && !error.contains('\n'), "{word}: {error}");
        };
        let (none, huge) = (Codec::None, i32::MAX as i64);
        fails(none, 3, &[page(0, 11, 11, &[2, 0, 3, 3], PLAIN)], "claims 3 rows, but it contains 2");
        fails(none, 3, &[page(0, 11, 11, &[4, 0, 3, 3], PLAIN)], "claims 4");
        fails(none, 9, &[page(0, 11, 11, &[9, 0, 3, 3], PLAIN)], "cannot be decoded");
        fails(none, 2, &[page(0, 11, 12, &[2, 0, 3, 3], PLAIN)], "ends after");
        fails(none, 2, &[page(0, 11, i64::MAX, &[2, 0, 3, 3], PLAIN)], "ends after");
        fails(none, 2, &[page(0, 11, -1, &[2, 0, 3, 3], PLAIN)], "ends after");
        fails(none, 2, &[page(0, 11, 11, &[2, 6, 3, 3], PLAIN)], "(6) is not supported");
        fails(none, 2, &[page(0, 11, 11, &[2, 8, 3, 3], PLAIN)], "dictionary is missing");
        fails(none, 2, &[page(2, 11, 11, &[huge, 0], PLAIN)], "dictionary of 11 bytes");
        fails(none, 2, &[page(3, 11, 11, &[2, 0, 2, 0, huge, huge], PLAIN)], "levels are longer");
        fails(none, 2, &[vec![0xff; 50]], "header");
        fails(Codec::Snappy, 2, &[page(0, huge, 11, &[2, 0, 3, 3], PLAIN)], "decompress to 2147483647");
        // Values longer than the page.
        fails(none, 1, &[page(0, 5, 5, &[1, 0, 3, 3], &[255, 255, 255, 255, 0])], "cannot be decoded");
    }
}
