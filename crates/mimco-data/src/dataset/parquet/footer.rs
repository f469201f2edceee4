//! A Parquet file's footer: the positions of the columns of images and labels, and the class names.
//! Every position is checked against the file.
//!
//! The footer is parsed here instead of by the `parquet` crate (60.1), because that parser recurses
//! into nested schemas without a limit, which overflows the stack, and reserves a row group (over
//! 100 bytes) for every claimed one that has a byte left.

use crate::dataset::parquet::codec::Codec;
use crate::dataset::parquet::pages::Chunk;
use crate::dataset::parquet::thrift::{BINARY, I32, I64, LIST, STRUCT, Thrift};
use crate::storage::Storage;
use parquet::basic::Type as Kind;
use std::io::{Read, SeekFrom};
use std::path::Path;

/// Limit of a footer's length, bytes.
const MAX_FOOTER: u64 = 64 << 20;

/// Limit of the nesting of columns.
const MAX_DEPTH: usize = 32;

/// Number of rows that a row group of any size may have. Each further row needs [`MIN_IMAGE`]
/// bytes, as a few bytes could otherwise claim billions of rows.
const FREE_ROWS: usize = 1024;

/// Minimum bytes of each further image.
const MIN_IMAGE: u64 = 16;

const MAGIC: &[u8; 4] = b"PAR1";

/// The needed parts of a footer.
#[derive(PartialEq, Debug)]
pub(super) struct Footer {
    /// Row groups in the file's order, without empty ones.
    pub groups: Vec<RowGroup>,
    /// Class names, if `datasets` wrote them.
    pub class_names: Option<Vec<String>>,
}

/// A group of rows whose columns are each stored in one piece.
#[derive(PartialEq, Debug)]
pub(super) struct RowGroup {
    pub rows: usize,
    pub images: Chunk,
    pub labels: Option<Chunk>,
}

/// Reads a file's footer.
///
/// # Errors
/// Fails if the file cannot be read, is not a Parquet file, is damaged, or has no images.
pub(super) fn read(storage: &Storage, path: &Path) -> Result<Footer, String> {
    let unread = |e: std::io::Error| format!("cannot be read: {e}; check the path");
    let (mut file, whole) = storage.open_file(path).map_err(unread)?;
    let mut tail = [0; 8];
    if whole >= 12 {
        file.seek(SeekFrom::Start(whole - 8)).map_err(unread)?;
        file.read_exact(&mut tail).map_err(unread)?;
    }
    let [a, b, c, d, magic @ ..] = tail;
    if &magic == b"PARE" {
        return Err("is encrypted; write it without encryption".into());
    }
    let length = u32::from_le_bytes([a, b, c, d]) as u64;
    if &magic != MAGIC || length > whole - 12 {
        return Err("is not a complete Parquet file (its end is missing); download or create it again".into());
    }
    if length > MAX_FOOTER {
        return Err(format!("has a footer of {length} bytes, over the limit of {MAX_FOOTER}; split it into several files"));
    }
    file.seek(SeekFrom::Start(whole - 8 - length)).map_err(unread)?;
    let mut footer = Vec::new();
    file.take(length).read_to_end(&mut footer).map_err(unread)?;
    parse(&footer, whole)
}

/// Parses the footer of a file of `whole` bytes.
fn parse(footer: &[u8], whole: u64) -> Result<Footer, String> {
    let damaged = "is not a complete Parquet file (its footer is damaged); download or create it again";
    let raw = RawFooter::read(&mut Thrift(footer)).ok_or(damaged)?;
    let columns = columns(&raw.schema).ok_or(damaged)?;
    let images = images(&columns).ok_or(
        "has no column of images; give one whose `image` is a struct with `bytes`, as `datasets` writes it, or a column of bytes called image, \
         img, bytes, jpg or png",
    )?;
    let labels = ["label", "labels", "fine_label"].iter().find_map(|name| columns.iter().position(|column| column.is_label(name)));
    let chunk = |columns: &[Column], pieces: &[[i64; 12]], at: usize| -> Result<Chunk, String> {
        let (column, piece) = (columns.get(at).ok_or(damaged)?, pieces.get(at).ok_or(damaged)?);
        // Numbers of a piece: 4 codec, 7 bytes, 9 offset of the data, 11 offset of the dictionary.
        let start = if (4..piece[9]).contains(&piece[11]) { piece[11] } else { piece[9] };
        let (start, length) = (u64::try_from(start).map_err(|_| damaged)?, u64::try_from(piece[7]).map_err(|_| damaged)?);
        if start.checked_add(length).is_none_or(|end| end > whole) {
            return Err("is not a complete Parquet file (a row group ends after the end of the file); download or create it again".into());
        }
        Ok(Chunk { start, length, codec: Codec::of(piece[4])?, kind: column.kind.ok_or(damaged)?, level: column.level })
    };
    let mut groups = Vec::new();
    for (rows, pieces) in raw.groups {
        if pieces.len() != columns.len() {
            return Err(damaged.into());
        }
        let rows = usize::try_from(rows).map_err(|_| damaged)?;
        let images = chunk(&columns, &pieces, images)?;
        if rows as u64 > FREE_ROWS as u64 + images.length / MIN_IMAGE {
            return Err(format!("claims {rows} images in {} bytes; download or create it again", images.length));
        }
        let labels = labels.map(|at| chunk(&columns, &pieces, at)).transpose()?;
        groups.extend((rows > 0).then_some(RowGroup { rows, images, labels }));
    }
    let label = labels.and_then(|at| columns.get(at)).map(|column| column.name);
    let class_names = label.and_then(|label| raw.features.and_then(|features| names_of_classes(features, label)));
    Ok(Footer { groups, class_names })
}

/// The contents of a footer before they are checked.
#[derive(Default)]
struct RawFooter<'a> {
    schema: Vec<Element<'a>>,
    /// For each row group the number of rows, and the integers of each column.
    groups: Vec<(i64, Vec<[i64; 12]>)>,
    /// JSON description of the columns by `datasets`.
    features: Option<&'a [u8]>,
}

impl<'a> RawFooter<'a> {
    fn read(thrift: &mut Thrift<'a>) -> Option<RawFooter<'a>> {
        let mut raw = RawFooter::default();
        thrift.fields(|thrift, id, kind| match (id, kind) {
            (2, LIST) => thrift.structs(|thrift| Element::read(thrift).map(|element| raw.schema.push(element))),
            (4, LIST) => thrift.structs(|thrift| group(thrift).map(|group| raw.groups.push(group))),
            (5, LIST) => thrift.structs(|thrift| {
                let (mut key, mut value) = (None, None);
                thrift.fields(|thrift, id, kind| {
                    match (id, kind) {
                        (1, BINARY) => key = Some(thrift.binary()?),
                        (2, BINARY) => value = Some(thrift.binary()?),
                        _ => thrift.skip(kind)?,
                    }
                    Some(())
                })?;
                if key == Some(b"huggingface") {
                    raw.features = value;
                }
                Some(())
            }),
            _ => thrift.skip(kind),
        })?;
        Some(raw)
    }
}

/// Reads a row group: the number of rows, and the integers of each column.
fn group(thrift: &mut Thrift) -> Option<(i64, Vec<[i64; 12]>)> {
    let (mut rows, mut pieces) = (-1, Vec::new());
    thrift.fields(|thrift, id, kind| {
        match (id, kind) {
            (1, LIST) => thrift.structs(|thrift| {
                let mut piece = [-1; 12];
                thrift.fields(|thrift, id, kind| {
                    if (id, kind) == (3, STRUCT) {
                        piece = thrift.numbers()?;
                        return Some(());
                    }
                    thrift.skip(kind)
                })?;
                pieces.push(piece);
                Some(())
            })?,
            (3, I64) => rows = thrift.number()?,
            _ => thrift.skip(kind)?,
        }
        Some(())
    })?;
    Some((rows, pieces))
}

/// A node of the schema; children follow their parent.
#[derive(Default)]
struct Element<'a> {
    kind: Option<i64>,
    /// 0 required, 1 optional, 2 repeated.
    repetition: i64,
    name: &'a str,
    children: i64,
    text: bool,
}

impl<'a> Element<'a> {
    fn read(thrift: &mut Thrift<'a>) -> Option<Element<'a>> {
        let mut element = Element::default();
        thrift.fields(|thrift, id, kind| {
            match (id, kind) {
                (1, I32) => element.kind = Some(thrift.number()?),
                (3, I32) => element.repetition = thrift.number()?,
                (4, BINARY) => element.name = std::str::from_utf8(thrift.binary()?).ok()?,
                (5, I32) => element.children = thrift.number()?,
                (6, I32) => element.text |= thrift.number()? == 0,
                // A union whose first member is text.
                (10, STRUCT) => thrift.fields(|thrift, id, kind| {
                    element.text |= id == 1;
                    thrift.skip(kind)
                })?,
                _ => thrift.skip(kind)?,
            }
            Some(())
        })?;
        Some(element)
    }
}

/// A column of values, which is a leaf of the schema.
struct Column<'a> {
    /// Name of the parent node, unless it is the root.
    parent: Option<&'a str>,
    name: &'a str,
    /// Type of the values; `None` if it is not supported or there may be several per row.
    kind: Option<Kind>,
    /// Definition level of a present value: the number of optional nodes from the root to it.
    level: i16,
    text: bool,
    depth: usize,
}

impl Column<'_> {
    fn is_label(&self, name: &str) -> bool {
        self.depth == 1 && self.name == name && matches!(self.kind, Some(Kind::INT32 | Kind::INT64))
    }
}

/// Returns the columns of a schema; `None` if its nodes do not form a tree.
fn columns<'a>(schema: &[Element<'a>]) -> Option<Vec<Column<'a>>> {
    let (root, nodes) = schema.split_first()?;
    // Nodes with children still to come: their number, the node's name, level, and whether it
    // repeats.
    let mut ancestors = vec![(root.children, root.name, 0, false)];
    let mut columns = Vec::new();
    for node in nodes {
        while ancestors.last()?.0 <= 0 {
            ancestors.pop();
        }
        let depth = ancestors.len();
        let (left, parent, level, several) = ancestors.last_mut()?;
        *left -= 1;
        let parent = (depth > 1).then_some(*parent);
        let level = *level + (node.repetition != 0) as i16;
        let several = *several || node.repetition == 2;
        if node.children > 0 {
            if depth == MAX_DEPTH {
                return None;
            }
            ancestors.push((node.children, node.name, level, several));
            continue;
        }
        let kind = match node.kind? {
            1 => Some(Kind::INT32),
            2 => Some(Kind::INT64),
            6 => Some(Kind::BYTE_ARRAY),
            _ => None,
        };
        columns.push(Column { parent, name: node.name, kind: kind.filter(|_| !several), level, text: node.text, depth });
    }
    ancestors.iter().all(|(left, ..)| *left <= 0).then_some(columns)
}

/// Returns the index of the column with the images.
fn images(columns: &[Column]) -> Option<usize> {
    let of_bytes = |column: &Column| column.kind == Some(Kind::BYTE_ARRAY);
    let in_struct = |column: &Column| column.depth == 2 && column.name == "bytes" && of_bytes(column);
    let structs: Vec<usize> = (0..columns.len()).filter(|&at| columns.get(at).is_some_and(in_struct)).collect();
    let named = |name: &str| structs.iter().copied().find(|&at| columns.get(at).is_some_and(|column| column.parent == Some(name)));
    let plain = |name: &str| columns.iter().position(|column| column.depth == 1 && column.name == name && of_bytes(column) && !column.text);
    let only = if let [only] = structs[..] { Some(only) } else { None };
    ["image", "img"].into_iter().find_map(named).or(only).or_else(|| ["image", "img", "bytes", "jpg", "png"].into_iter().find_map(plain))
}

/// Returns the names of a column's classes in the JSON of `datasets`.
fn names_of_classes(features: &[u8], column: &str) -> Option<Vec<String>> {
    let json: serde_json::Value = serde_json::from_slice(features).ok()?;
    let names = json.get("info")?.get("features")?.get(column)?.get("names")?.as_array()?;
    names.iter().map(|name| name.as_str().map(str::to_string)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value > 127 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    fn zigzag(value: i64) -> Vec<u8> {
        varint((value << 1 ^ value >> 63) as u64)
    }

    fn field(id: i64, kind: u8, content: &[u8]) -> Vec<u8> {
        [&[kind][..], &zigzag(id), content].concat()
    }

    fn number(id: i64, value: i64) -> Vec<u8> {
        field(id, if [7, 9, 11].contains(&id) { I64 } else { I32 }, &zigzag(value))
    }

    fn structs(count: u64, content: &[u8]) -> Vec<u8> {
        [&[0xf0 | STRUCT][..], &varint(count), content].concat()
    }

    /// Returns an optional node. `kind` and `children` are left out if they are -1.
    fn element(name: &str, kind: i64, children: i64) -> Vec<u8> {
        let mut bytes = [number(3, 1), field(4, BINARY, &[&varint(name.len() as u64), name.as_bytes()].concat())].concat();
        bytes.extend(if kind < 0 { Vec::new() } else { number(1, kind) });
        bytes.extend(if children < 0 { Vec::new() } else { number(5, children) });
        [bytes, vec![0]].concat()
    }

    /// Returns a footer of one row group whose columns all have the numbers `piece`.
    fn footer(schema: &[Vec<u8>], columns: u64, rows: i64, piece: &[(i64, i64)]) -> Vec<u8> {
        let piece: Vec<u8> = piece.iter().flat_map(|&(id, value)| number(id, value)).collect();
        let column = [field(3, STRUCT, &[&piece[..], &[0]].concat()), vec![0]].concat();
        let columns = field(1, LIST, &structs(columns, &column.repeat(columns.min(9) as usize)));
        let group = [columns, field(3, I64, &zigzag(rows)), vec![0]].concat();
        let schema = field(2, LIST, &structs(schema.len() as u64, &schema.concat()));
        [schema, field(4, LIST, &structs(1, &group)), vec![0]].concat()
    }

    fn image_and_label() -> Vec<Vec<u8>> {
        vec![element("schema", -1, 2), element("image", -1, 1), element("bytes", 6, -1), element("label", 1, -1)]
    }

    const PIECE: [(i64, i64); 4] = [(4, 1), (7, 500), (9, 40), (11, 4)];

    #[test]
    fn columns_and_their_positions_are_found() {
        let images = Chunk { start: 4, length: 500, codec: Codec::Snappy, kind: Kind::BYTE_ARRAY, level: 2 };
        let labels = Chunk { kind: Kind::INT32, level: 1, ..images.clone() };
        let group = RowGroup { rows: 9, images, labels: Some(labels) };
        let read = parse(&footer(&image_and_label(), 2, 9, &PIECE), 504);
        assert_eq!(read, Ok(Footer { groups: vec![group], class_names: None }));
    }

    #[test]
    fn impossible_footers_are_errors_and_nothing_is_allocated_for_them() {
        let fails = |footer: Vec<u8>, word: &str| {
            let error = parse(&footer, 504).unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
        };
        let with = |id: i64, value: i64| footer(&image_and_label(), 2, 9, &[&PIECE[..], &[(id, value)]].concat());
        fails(with(7, 501), "ends after the end");
        fails(with(7, i64::MAX), "ends after the end");
        fails(with(7, -1), "damaged");
        fails(with(4, 4), "brotli");
        fails(footer(&image_and_label(), 2, i64::MAX, &PIECE), "images in 500 bytes");
        fails(footer(&image_and_label(), 2, -1, &PIECE), "damaged");
        fails(footer(&image_and_label(), 3, 9, &PIECE), "damaged");
        fails(footer(&image_and_label(), u64::MAX, 9, &PIECE), "damaged");
        for children in [0, 2, i32::MAX as i64, i64::MAX] {
            let mut schema = image_and_label();
            schema[1] = element("image", -1, children);
            fails(footer(&schema, 2, 9, &PIECE), "damaged");
        }
        let deep = [vec![element("node", -1, 1); 100_000], vec![element("bytes", 6, -1)]].concat();
        fails(footer(&deep, 1, 9, &PIECE), "damaged");
        fails(Vec::new(), "damaged");
    }
}
