//! Where the images of an archive lie: of a tar archive by its headers, or by the index that DALI's `wds2idx` and `mimco pack` write beside it; of a
//! zip archive by its directory.

use crate::folders::is_image;
use crate::place::{Place, Source};
use crate::tree::Names;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// A byte of deflated data never becomes more.
const MOST_INFLATED: u64 = 1032;

/// Behind a tar archive's last member there are zeros up to a whole record of some tar programs.
const MOST_FILLING: u64 = 1 << 20;

/// Where an image lies in its archive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Member {
    /// Its first byte there.
    pub start: u64,
    /// Its bytes there.
    pub length: u32,
    /// Its bytes as a file, where a zip archive has it deflated; else [`Member::STORED`].
    pub inflated: u32,
}

impl Member {
    /// Marks a member whose bytes lie there as they are.
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
    /// What the sample's `.cls` holds, where it has one.
    pub classes: Vec<Option<u32>>,
}

/// Looks where an archive's images lie, and with `labelled` what their classes are.
///
/// # Errors
/// An archive that is missing, cut short or none.
pub(crate) fn look_into(place: &Place, path: &Path, labelled: bool) -> Result<Contents, String> {
    let (source, length) = place.look_into(path).map_err(|e| format!("cannot be read: {e}; check the path"))?;
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("zip")) {
        return look_into_zip(source, length);
    }
    match by_index(place, path, length, labelled) {
        Some(contents) => Ok(contents),
        None => look_into_tar(source, length),
    }
}

fn look_into_tar(source: Box<dyn Source>, whole: u64) -> Result<Contents, String> {
    let mut archive = tar::Archive::new(source);
    let damaged = |e: std::io::Error| format!("is not a whole tar archive ({e}); fetch or make it again");
    let mut contents = Contents::default();
    let (mut keys, mut links) = (Vec::new(), 0);
    let mut classes = HashMap::new();
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let (start, length) = (entry.raw_file_position(), entry.size());
        if start.checked_add(length).is_none_or(|end| end > whole) {
            return Err(format!("is not a whole tar archive (it ends within {}); fetch or make it again", name.escape_debug()));
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
        } else if name.ends_with(".cls") && length <= LONGEST_CLASS {
            let mut text = String::new();
            entry.read_to_string(&mut text).map_err(damaged)?;
            classes.extend(text.trim().parse::<u32>().ok().map(|class| (key(&name).to_string(), class)));
        }
    }
    if links > 0 {
        tracing::warn!("{links} images of an archive are links to others in it, and are left out");
    }
    contents.classes = keys.iter().map(|key| classes.get(key).copied()).collect();
    Ok(contents)
}

/// Bytes of a number in a `.cls`.
const LONGEST_CLASS: u64 = 32;

/// What the index `NAME.idx` of a shard `NAME.tar` says; nothing where there is none, or it is not of this archive: then the archive's headers say
/// it. First a line `v1.2 SAMPLES`, then a line a sample, in it `ENDING START BYTES NAME` of each member.
fn by_index(place: &Place, path: &Path, whole: u64, labelled: bool) -> Option<Contents> {
    let index = path.with_extension("idx");
    let changed = |path: &Path| place.full(path).metadata().and_then(|m| m.modified()).ok();
    if !place.is_far() && (!place.full(&index).exists() || changed(&index) < changed(path)) {
        return None;
    }
    let text = String::from_utf8(place.read(&index, None).ok()?).ok()?;
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
            } else if labelled && name.ends_with(".cls") && length <= LONGEST_CLASS {
                let text = place.read(path, Some(start..start + length)).ok()?;
                class = String::from_utf8_lossy(&text).trim().parse().ok();
            }
        }
        contents.classes.resize(contents.classes.len() + contents.members.len() - first, class);
        count += 1;
    }
    let ends = || [0, contents.members.len() / 2, contents.members.len() - 1];
    let fits = count == samples && end <= whole && whole - end <= MOST_FILLING;
    let is_of_it = fits && !contents.members.is_empty() && ends().iter().all(|&at| stands(place, path, &contents, at));
    is_of_it.then_some(contents)
}

/// Whether the archive has before a member's bytes the header of just this member.
fn stands(place: &Place, path: &Path, contents: &Contents, at: usize) -> bool {
    let (member, name) = (contents.members[at], contents.names.get(at));
    let Some(start) = member.start.checked_sub(512) else { return false };
    let Ok(bytes) = place.read(path, Some(start..member.start)) else { return false };
    let Ok(bytes) = <[u8; 512]>::try_from(bytes) else { return false };
    let header = tar::Header::from_byte_slice(&bytes);
    let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|&byte| u32::from(byte)).sum::<u32>() + 8 * u32::from(b' ');
    let named = name.len() > 100 || *header.path_bytes() == *name; // a longer name stands elsewhere
    named && header.cksum().is_ok_and(|found| found == sum) && header.size().is_ok_and(|size| size == u64::from(member.length))
}

/// A zip archive's directory is read; what it says is checked against the file.
fn look_into_zip(source: Box<dyn Source>, whole: u64) -> Result<Contents, String> {
    let damaged = |e: zip::result::ZipError| format!("is not a whole zip archive ({e}); fetch or make it again");
    let mut archive = zip::ZipArchive::new(source).map_err(damaged)?;
    let mut contents = Contents::default();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        if !entry.is_file() || is_hidden(&name) || !is_image(Path::new(&name)) {
            continue;
        }
        let (start, length) = (entry.data_start().unwrap_or(u64::MAX), entry.compressed_size());
        let inflated = match entry.compression() {
            _ if entry.encrypted() => return Err("is encrypted; unpack it to a folder".into()),
            zip::CompressionMethod::Stored => None,
            zip::CompressionMethod::Deflated => Some(entry.size()),
            other => return Err(format!("is packed by {other}; pack it by deflate, or not at all")),
        };
        let inside = start.checked_add(length).is_some_and(|end| end <= whole);
        if !inside || inflated.is_some_and(|size| size / MOST_INFLATED > length) {
            return Err(format!("is not a whole zip archive ({} is not in it); fetch or make it again", name.escape_debug()));
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
    format!("has an image of more than four GiB ({}); leave it out", name.escape_debug())
}

fn is_hidden(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|name| name.starts_with('.'))
}

/// What the members of a sample share: the name up to the first dot behind the folders.
fn key(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    name[file..].find('.').map_or(name, |dot| &name[..file + dot])
}
