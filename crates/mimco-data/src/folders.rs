//! The image files below a folder.

use crate::DataError;
use std::fs;
use std::path::{Path, PathBuf};

const EXTENSIONS: [&str; 7] = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"];

/// All image files below a folder, path components compared bytewise; hidden ones are passed over, loops of links are cut.
pub(crate) fn walk(root: &Path) -> Result<Vec<PathBuf>, DataError> {
    if !root.exists() {
        return Err(DataError::path(root, "is not there; check the path"));
    }
    let mut files = Vec::new();
    let mut seen = std::collections::HashSet::new();
    // Real folders first, links after all of them, each by name: which path of a folder is taken must not depend on the file system.
    let mut folders = vec![root.to_path_buf()];
    let mut links = Vec::new();
    while let Some(folder) = folders.pop().or_else(|| links.pop()) {
        if let Ok(real) = folder.canonicalize()
            && !seen.insert(real)
        {
            continue;
        }
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if folder == root => return Err(DataError::path(root, format!("cannot be read: {e}"))),
            Err(e) => {
                tracing::warn!("{}: passed over, cannot be read: {e}", folder.display());
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if path.is_dir() {
                if path.is_symlink() { links.push(path) } else { folders.push(path) }
            } else if is_image(&path) {
                files.push(path);
            }
        }
        links.sort_unstable_by(|a, b| b.cmp(a)); // the last is taken first
    }
    files.sort_unstable(); // paths compare component by component, bytewise
    Ok(files)
}

/// A path with `/` between its parts, whatever the system has.
pub(crate) fn slashed(path: &Path) -> String {
    let joined = path.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
    if path.is_absolute() { joined.replacen("//", "/", 1) } else { joined }
}

/// Whether a name is an image's, by its ending.
pub(crate) fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|e| EXTENSIONS.iter().any(|x| e.eq_ignore_ascii_case(x)))
}
