//! File names: known extensions, and paths written with `/`.

use std::path::Path;

/// Extensions of image files.
const IMAGES: [&str; 11] = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "pnm"];

/// Extensions of archives that a folder may contain several of.
const ARCHIVES: [&str; 2] = ["tar", "parquet"];

/// Returns a path with `/` between its components on every platform.
pub(crate) fn slashed(path: &Path) -> String {
    let joined = path.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
    if path.is_absolute() { joined.replacen("//", "/", 1) } else { joined }
}

/// Returns whether a file name has the extension of an image.
pub(crate) fn is_image(path: &Path) -> bool {
    ends_in(path, &IMAGES)
}

/// Returns whether a file name has the extension of an archive that a folder may contain several
/// of.
pub(crate) fn is_archive(path: &Path) -> bool {
    ends_in(path, &ARCHIVES)
}

/// Returns whether a path has one of these extensions, in upper or lower case.
pub(crate) fn ends_in(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|e| extensions.iter().any(|extension| e.eq_ignore_ascii_case(extension)))
}
