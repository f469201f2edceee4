//! A Parquet file's footer: where the columns of images and labels lie, and what the classes are called. It is read here, and not by the `parquet`
//! crate, which reserves memory by numbers that it finds there; what it says is checked against the file.

use super::codec::Codec;
use super::pages::Chunk;
use super::thrift::{BINARY, I32, I64, LIST, STRUCT, Thrift};
use crate::place::Place;
use parquet::basic::Type as Kind;
use std::io::{Read, SeekFrom};
use std::path::Path;

/// Bytes of a footer.
const MOST_FOOTER: u64 = 64 << 20;

/// Columns inside each other.
const DEEPEST: usize = 32;

/// Rows that a row group may have whatever its size, and bytes that each further one has at least: a few bytes could otherwise stand for billions.
const FREE_ROWS: usize = 1024;
const LEAST_IMAGE: u64 = 16;

const MAGIC: &[u8; 4] = b"PAR1";

/// What is needed of a footer.
#[derive(PartialEq, Debug)]
pub(super) struct Footer {
    /// In the file's order, none without rows.
    pub groups: Vec<RowGroup>,
    /// What the classes are called, where `datasets` wrote it.
    pub classes: Option<Vec<String>>,
}

/// Rows whose columns each lie in one piece.
#[derive(PartialEq, Debug)]
pub(super) struct RowGroup {
    pub rows: usize,
    pub images: Chunk,
    pub labels: Option<Chunk>,
}

/// Reads a file's footer.
///
/// # Errors
/// A file that cannot be read, is no Parquet file, damaged, or without images.
pub(super) fn read(place: &Place, path: &Path) -> Result<Footer, String> {
    let unread = |e: std::io::Error| format!("cannot be read: {e}; check the path");
    let (mut file, whole) = place.look_into(path).map_err(unread)?;
    let mut tail = [0; 8];
    if whole >= 12 {
        file.seek(SeekFrom::Start(whole - 8)).map_err(unread)?;
        file.read_exact(&mut tail).map_err(unread)?;
    }
    let [a, b, c, d, magic @ ..] = tail;
    if &magic == b"PARE" {
        return Err("is encrypted; write it without".into());
    }
    let length = u32::from_le_bytes([a, b, c, d]) as u64;
    if &magic != MAGIC || length > whole - 12 {
        return Err("is not a whole Parquet file (its end is missing); fetch or make it again".into());
    }
    if length > MOST_FOOTER {
        return Err(format!("has a footer of {length} bytes, over the limit of {MOST_FOOTER}; write it as several files"));
    }
    file.seek(SeekFrom::Start(whole - 8 - length)).map_err(unread)?;
    let mut footer = Vec::new();
    file.take(length).read_to_end(&mut footer).map_err(unread)?;
    parse(&footer, whole)
}

/// Reads a footer of a file of `whole` bytes.
fn parse(footer: &[u8], whole: u64) -> Result<Footer, String> {
    let damaged = "is not a whole Parquet file (its footer is damaged); fetch or make it again";
    let raw = Raw::read(&mut Thrift(footer)).ok_or(damaged)?;
    let columns = columns(&raw.schema).ok_or(damaged)?;
    let images = images(&columns).ok_or(
        "has no column of images; give one whose `image` is a struct with `bytes`, as `datasets` writes it, or a column of bytes called image, \
         img, bytes, jpg or png",
    )?;
    let labels = ["label", "labels", "fine_label"].iter().find_map(|name| columns.iter().position(|column| column.is_label(name)));
    let chunk = |columns: &[Column], pieces: &[[i64; 12]], at: usize| -> Result<Chunk, String> {
        let (column, piece) = (columns.get(at).ok_or(damaged)?, pieces.get(at).ok_or(damaged)?);
        // Of a piece's numbers: 4 its codec, 7 its bytes, 9 where its data begin, 11 where its dictionary does.
        let start = if (4..piece[9]).contains(&piece[11]) { piece[11] } else { piece[9] };
        let (start, length) = (u64::try_from(start).map_err(|_| damaged)?, u64::try_from(piece[7]).map_err(|_| damaged)?);
        if start.checked_add(length).is_none_or(|end| end > whole) {
            return Err("is not a whole Parquet file (a row group ends behind it); fetch or make it again".into());
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
        if rows as u64 > FREE_ROWS as u64 + images.length / LEAST_IMAGE {
            return Err(format!("says that it has {rows} images in {} bytes; fetch or make it again", images.length));
        }
        let labels = labels.map(|at| chunk(&columns, &pieces, at)).transpose()?;
        groups.extend((rows > 0).then_some(RowGroup { rows, images, labels }));
    }
    let label = labels.and_then(|at| columns.get(at)).map(|column| column.name);
    let classes = label.and_then(|label| raw.features.and_then(|features| class_names(features, label)));
    Ok(Footer { groups, classes })
}

/// What a footer says, read but not understood.
#[derive(Default)]
struct Raw<'a> {
    schema: Vec<Element<'a>>,
    /// Rows, and of each column the numbers that it has.
    groups: Vec<(i64, Vec<[i64; 12]>)>,
    /// What `datasets` says of the columns, JSON.
    features: Option<&'a [u8]>,
}

impl<'a> Raw<'a> {
    fn read(thrift: &mut Thrift<'a>) -> Option<Raw<'a>> {
        let mut raw = Raw::default();
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

/// A row group's rows, and of each column the numbers that it has.
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

/// A node of the schema, children behind their parent.
#[derive(Default)]
struct Element<'a> {
    kind: Option<i64>,
    /// 0 always there, 1 there or not, 2 any number of times.
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
                // A union, of which the first is text.
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

/// A column of values: a leaf of the schema.
struct Column<'a> {
    /// What it is a child of, where it is one.
    parent: Option<&'a str>,
    name: &'a str,
    /// None where it is of a kind not read here, or may be several a row.
    kind: Option<Kind>,
    /// The definition level of a value that is there: how many of it and those that it is in may be missing.
    level: i16,
    text: bool,
    depth: usize,
}

impl Column<'_> {
    fn is_label(&self, name: &str) -> bool {
        self.depth == 1 && self.name == name && matches!(self.kind, Some(Kind::INT32 | Kind::INT64))
    }
}

/// The columns that a schema's nodes stand for; none where they make no tree.
fn columns<'a>(schema: &[Element<'a>]) -> Option<Vec<Column<'a>>> {
    let (root, nodes) = schema.split_first()?;
    // The nodes that have children to come: how many, and what their levels begin from.
    let mut open = vec![(root.children, root.name, 0, false)];
    let mut columns = Vec::new();
    for node in nodes {
        while open.last()?.0 <= 0 {
            open.pop();
        }
        let depth = open.len();
        let (left, parent, level, several) = open.last_mut()?;
        *left -= 1;
        let parent = (depth > 1).then_some(*parent);
        let level = *level + (node.repetition != 0) as i16;
        let several = *several || node.repetition == 2;
        if node.children > 0 {
            if depth == DEEPEST {
                return None;
            }
            open.push((node.children, node.name, level, several));
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
    open.iter().all(|(left, ..)| *left <= 0).then_some(columns)
}

/// Which column has the images.
fn images(columns: &[Column]) -> Option<usize> {
    let of_bytes = |column: &Column| column.kind == Some(Kind::BYTE_ARRAY);
    let in_struct = |column: &Column| column.depth == 2 && column.name == "bytes" && of_bytes(column);
    let structs: Vec<usize> = (0..columns.len()).filter(|&at| columns.get(at).is_some_and(in_struct)).collect();
    let named = |name: &str| structs.iter().copied().find(|&at| columns.get(at).is_some_and(|column| column.parent == Some(name)));
    let plain = |name: &str| columns.iter().position(|column| column.depth == 1 && column.name == name && of_bytes(column) && !column.text);
    let only = if let [only] = structs[..] { Some(only) } else { None };
    ["image", "img"].into_iter().find_map(named).or(only).or_else(|| ["image", "img", "bytes", "jpg", "png"].into_iter().find_map(plain))
}

/// The names that `datasets` gives a column's classes.
fn class_names(features: &[u8], column: &str) -> Option<Vec<String>> {
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

    /// A node that may be missing: its kind, or -1, and children, or -1.
    fn element(name: &str, kind: i64, children: i64) -> Vec<u8> {
        let mut bytes = [number(3, 1), field(4, BINARY, &[&varint(name.len() as u64), name.as_bytes()].concat())].concat();
        bytes.extend(if kind < 0 { Vec::new() } else { number(1, kind) });
        bytes.extend(if children < 0 { Vec::new() } else { number(5, children) });
        [bytes, vec![0]].concat()
    }

    /// A footer of a row group, whose columns each have `piece` as their numbers.
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
    fn columns_and_their_pieces_are_found() {
        let images = Chunk { start: 4, length: 500, codec: Codec::Snappy, kind: Kind::BYTE_ARRAY, level: 2 };
        let labels = Chunk { kind: Kind::INT32, level: 1, ..images.clone() };
        let group = RowGroup { rows: 9, images, labels: Some(labels) };
        let read = parse(&footer(&image_and_label(), 2, 9, &PIECE), 504);
        assert_eq!(read, Ok(Footer { groups: vec![group], classes: None }));
    }

    #[test]
    fn what_cannot_be_is_refused_and_nothing_is_reserved_for_it() {
        let says = |footer: Vec<u8>, word: &str| {
            let error = parse(&footer, 504).unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
        };
        let with = |id: i64, value: i64| footer(&image_and_label(), 2, 9, &[&PIECE[..], &[(id, value)]].concat());
        says(with(7, 501), "ends behind it");
        says(with(7, i64::MAX), "ends behind it");
        says(with(7, -1), "damaged");
        says(with(4, 4), "brotli");
        says(footer(&image_and_label(), 2, i64::MAX, &PIECE), "images in 500 bytes");
        says(footer(&image_and_label(), 2, -1, &PIECE), "damaged");
        says(footer(&image_and_label(), 3, 9, &PIECE), "damaged");
        says(footer(&image_and_label(), u64::MAX, 9, &PIECE), "damaged");
        for children in [0, 2, i32::MAX as i64, i64::MAX] {
            let mut schema = image_and_label();
            schema[1] = element("image", -1, children);
            says(footer(&schema, 2, 9, &PIECE), "damaged");
        }
        let deep = [vec![element("node", -1, 1); 100_000], vec![element("bytes", 6, -1)]].concat();
        says(footer(&deep, 1, 9, &PIECE), "damaged");
        says(Vec::new(), "damaged");
    }
}
