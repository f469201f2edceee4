//! Checksums of shards: `SHA256SUMS`, which `sha256sum -c` reads too.

use crate::dataset::Dataset;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Name of the list of checksums.
pub(crate) const SUMS: &str = "SHA256SUMS";

/// The result of verifying shards against `SHA256SUMS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checksums {
    /// Number of shards that were verified.
    pub files: usize,
    /// Names of shards that are missing, unreadable or changed, with the reasons.
    pub wrong: Vec<(String, String)>,
}

/// Returns a digest in hexadecimal.
pub(crate) fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares a dataset's shards with the `SHA256SUMS` in their folder. Returns `None` if the dataset
/// has no tar shards or there is no list. For a folder all listed shards are verified, otherwise
/// only those of the dataset.
pub(crate) fn verify(dataset: &Dataset, threads: usize) -> Option<Checksums> {
    let location = dataset.location();
    let location = Path::new(&location);
    let folder = if location.is_dir() { location } else { location.parent()? };
    let list = std::fs::read_to_string(folder.join(SUMS)).ok()?;
    let shards = shards(dataset);
    if shards.is_empty() {
        return None;
    }
    let listed: Vec<(&str, &str)> =
        list.lines().filter_map(entry).filter(|(_, name)| location.is_dir() || shards.contains(*name)).collect();
    let wrong: Mutex<Vec<(usize, String)>> = Mutex::default();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, listed.len().max(1)) {
            scope.spawn(|| {
                while let Some((which, (sum, name))) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, listed.get(i)?))) {
                    let what = match sum_of(&folder.join(name)) {
                        Ok(found) if found.eq_ignore_ascii_case(sum) => continue,
                        Ok(_) => format!("its checksum differs from {SUMS}; download or pack it again"),
                        Err(e) => format!("cannot be read: {e}"),
                    };
                    if let Ok(mut wrong) = wrong.lock() {
                        wrong.push((which, what));
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap_or_default();
    wrong.sort();
    let named = wrong.into_iter().filter_map(|(which, what)| Some((listed.get(which)?.1.to_string(), what))).collect();
    Some(Checksums { files: listed.len(), wrong: named })
}

/// Returns the shards of a dataset's images, which are the first components of their names.
fn shards(dataset: &Dataset) -> BTreeSet<String> {
    let mut shards = BTreeSet::new();
    for index in 0..dataset.len() {
        let name = dataset.name(index);
        if let Some((shard, _)) = name.split_once('/')
            && is_tar(shard)
            && !shards.contains(shard)
        {
            shards.insert(shard.to_string());
        }
    }
    shards
}

/// Parses a line into digest and name, which are separated by two spaces, or a space and a star.
/// Returns `None` unless the name is that of a tar archive in the same folder.
fn entry(line: &str) -> Option<(&str, &str)> {
    let (sum, name) = line.split_once(' ')?;
    let name = name.strip_prefix([' ', '*'])?;
    (sum.len() == 64 && is_tar(name) && !name.contains(['/', '\\'])).then_some((sum, name))
}

fn is_tar(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".tar")
}

fn sum_of(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hash, mut part) = (File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hex(hash.finalize())),
            read => hash.update(&part[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_printed_as_by_sha256sum() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        // The example of the standard (FIPS 180-4).
        assert_eq!(sum_of(file.path()).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn lines_name_archives_in_the_folder_of_the_list() {
        let sum = "0".repeat(64);
        assert_eq!(entry(&format!("{sum}  a b.tar")), Some((sum.as_str(), "a b.tar")));
        assert_eq!(entry(&format!("{sum} *a.tar")), Some((sum.as_str(), "a.tar")));
        for other in [format!("{sum}  ../a.tar"), format!("{sum}  a.jpg"), format!("{sum} a.tar"), "a.tar".to_string(), String::new()] {
            assert_eq!(entry(&other), None, "{other}");
        }
    }
}
