//! The positions of an archive's images: read from a tar archive's headers, from the index that
//! DALI's `wds2idx` and `mimco pack` write next to it, or from a zip archive's directory.

use crate::dataset::folder::file_tree::Names;
use crate::path_names::{ends_in, is_image};
use crate::storage::{ReadSeek, Storage};
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// Largest expansion of a byte by deflate.
const MAX_INFLATION: u64 = 1032;

/// Limit of the zeros after the last member of a tar archive: a whole record of some tar programs.
const MAX_PADDING: u64 = 1 << 20;

/// Limit of the length of a `.cls` member, bytes.
const MAX_CLASS_LENGTH: u64 = 32;

/// The position of an image in its archive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Member {
    /// Offset of the first byte.
    pub start: u64,
    /// Number of bytes in the archive.
    pub length: u32,
    /// Number of bytes after decompression for a deflated member of a zip archive, else
    /// [`Member::STORED`].
    pub inflated: u32,
}

impl Member {
    /// Marks a member that is stored uncompressed.
    pub const STORED: u32 = u32::MAX;

    fn stored(start: u64, length: u64) -> Option<Member> {
        Some(Member { start, length: u32::try_from(length).ok()?, inflated: Member::STORED })
    }
}

/// The images of an archive.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Contents {
    pub members: Vec<Member>,
    pub names: Names,
    /// The class in each sample's `.cls` member, if it has one.
    pub classes: Vec<Option<u32>>,
}

/// Finds the positions of an archive's images and, with `labelled`, their `.cls` members.
///
/// # Errors
/// Fails if the archive is missing, truncated or not an archive.
pub(crate) fn scan(storage: &Storage, path: &Path, labelled: bool) -> Result<Contents, String> {
    let (file, length) = storage.open_file(path).map_err(|e| format!("cannot be read: {e}; check the path"))?;
    if ends_in(path, &["zip"]) {
        return scan_zip(file, length);
    }
    match read_index(storage, path, length, labelled) {
        Some(contents) => Ok(contents),
        None => scan_tar(file, length),
    }
}

/// Scans the headers of a tar archive of `whole` bytes.
fn scan_tar(file: Box<dyn ReadSeek>, whole: u64) -> Result<Contents, String> {
    let mut archive = tar::Archive::new(file);
    let damaged = |e: std::io::Error| format!("is not a complete tar archive ({e}); download or create it again");
    let mut contents = Contents::default();
    let (mut keys, mut links) = (Vec::new(), 0);
    let mut classes = HashMap::new();
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let (start, length) = (entry.raw_file_position(), entry.size());
        if start.checked_add(length).is_none_or(|end| end > whole) {
            return Err(format!("is not a complete tar archive (it ends within {}); download or create it again", name.escape_debug()));
        }
        if is_hidden(&name) || !entry.header().entry_type().is_file() {
            links += (entry.header().entry_type().is_hard_link() && is_image(Path::new(&name))) as usize;
            continue;
        }
        if is_image(Path::new(&name)) {
            let Some(member) = Member::stored(start, length) else { return Err(too_long(&name)) };
            keys.push(key(&name).to_string());
            contents.names.push(name.as_bytes());
            contents.members.push(member);
        } else if name.ends_with(".cls") && length <= MAX_CLASS_LENGTH {
            let mut text = String::new();
            entry.read_to_string(&mut text).map_err(damaged)?;
            classes.extend(text.trim().parse::<u32>().ok().map(|class| (key(&name).to_string(), class)));
        }
    }
    if links > 0 {
        tracing::warn!("{links} images of an archive are links to other members and are left out");
    }
    contents.classes = keys.iter().map(|key| classes.get(key).copied()).collect();
    Ok(contents)
}

/// Reads the index `NAME.idx` of a shard `NAME.tar`. Returns `None` if there is no index or it does
/// not match the archive, whose headers are then scanned.
///
/// The first line of an index is `v1.2 SAMPLES`. Each sample is a line with `EXTENSION START BYTES
/// NAME` of each member.
fn read_index(storage: &Storage, path: &Path, whole: u64, labelled: bool) -> Option<Contents> {
    let index = path.with_extension("idx");
    let modified = |path: &Path| storage.join(path).metadata().and_then(|m| m.modified()).ok();
    if !storage.is_remote() && (!storage.join(&index).exists() || modified(&index) < modified(path)) {
        return None;
    }
    let text = String::from_utf8(storage.read(&index, None).ok()?).ok()?;
    let mut lines = text.lines();
    let mut head = lines.next()?.split_whitespace();
    let samples: usize = head.next().filter(|&version| version == "v1.2").and(head.next())?.parse().ok()?;
    let mut contents = Contents::default();
    let (mut end, mut count) = (0, 0);
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let mut class = None;
        let first = contents.members.len();
        for member in fields.chunks(4) {
            let &[_, start, length, name] = member else { return None };
            let (start, length): (u64, u64) = (start.parse().ok()?, length.parse().ok()?);
            end = end.max(start.checked_add(length)?);
            if is_hidden(name) {
                continue;
            }
            if is_image(Path::new(name)) {
                contents.members.push(Member::stored(start, length)?);
                contents.names.push(name.as_bytes());
            } else if labelled && name.ends_with(".cls") && length <= MAX_CLASS_LENGTH {
                let text = storage.read(path, Some(start..start + length)).ok()?;
                class = String::from_utf8_lossy(&text).trim().parse().ok();
            }
        }
        contents.classes.resize(contents.classes.len() + contents.members.len() - first, class);
        count += 1;
    }
    let ends = || [0, contents.members.len() / 2, contents.members.len() - 1];
    let fits = count == samples && end <= whole && whole - end <= MAX_PADDING;
    let is_of_it = fits && !contents.members.is_empty() && ends().iter().all(|&at| has_header(storage, path, &contents, at));
    is_of_it.then_some(contents)
}

/// Returns whether the header before a member's position in the archive is that of this member.
fn has_header(storage: &Storage, path: &Path, contents: &Contents, at: usize) -> bool {
    let (member, name) = (contents.members[at], contents.names.get(at));
    let Some(start) = member.start.checked_sub(512) else { return false };
    let Ok(bytes) = storage.read(path, Some(start..member.start)) else { return false };
    let Ok(bytes) = <[u8; 512]>::try_from(bytes) else { return false };
    let header = tar::Header::from_byte_slice(&bytes);
    let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|&byte| u32::from(byte)).sum::<u32>() + 8 * u32::from(b' ');
    let named = name.len() > 100 || *header.path_bytes() == *name; // longer names are stored elsewhere
    named && header.cksum().is_ok_and(|found| found == sum) && header.size().is_ok_and(|size| size == u64::from(member.length))
}

/// Reads the directory of a zip archive of `whole` bytes and checks it against the file's size.
fn scan_zip(file: Box<dyn ReadSeek>, whole: u64) -> Result<Contents, String> {
    let damaged = |e: zip::result::ZipError| format!("is not a complete zip archive ({e}); download or create it again");
    let mut archive = zip::ZipArchive::new(file).map_err(damaged)?;
    let mut contents = Contents::default();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        if !entry.is_file() || is_hidden(&name) || !is_image(Path::new(&name)) {
            continue;
        }
        let (start, length) = (entry.data_start().unwrap_or(u64::MAX), entry.compressed_size());
        let inflated = match entry.compression() {
            _ if entry.encrypted() => return Err("is encrypted; extract it to a folder".into()),
            zip::CompressionMethod::Stored => None,
            zip::CompressionMethod::Deflated => Some(entry.size()),
            other => return Err(format!("is compressed with {other}; use deflate or no compression")),
        };
        let inside = start.checked_add(length).is_some_and(|end| end <= whole);
        if !inside || inflated.is_some_and(|size| size / MAX_INFLATION > length) {
            return Err(format!("is not a complete zip archive ({} is not in it); download or create it again", name.escape_debug()));
        }
        let inflated = inflated.map_or(Ok(Member::STORED), u32::try_from);
        let (Ok(inflated), Some(member)) = (inflated, Member::stored(start, length)) else { return Err(too_long(&name)) };
        contents.members.push(Member { inflated, ..member });
        contents.names.push(name.as_bytes());
        contents.classes.push(None);
    }
    Ok(contents)
}

fn too_long(name: &str) -> String {
    format!("has an image larger than 4 GiB ({}); remove it", name.escape_debug())
}

fn is_hidden(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|name| name.starts_with('.'))
}

/// Returns the key that the members of a sample share: the name up to the first dot of the file
/// name.
fn key(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    name[file..].find('.').map_or(name, |dot| &name[..file + dot])
}
