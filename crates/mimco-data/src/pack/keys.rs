//! Keys of samples: unique names without extensions.

use crate::dataset::Dataset;
use crate::path_names::is_image;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// Sorted hashes of the keys of all images; hashes, as there may be millions of images.
pub(crate) struct Keys(Vec<u64>);

impl Keys {
    /// Returns the keys of a dataset.
    pub fn of(dataset: &Dataset) -> Keys {
        let mut hashes: Vec<u64> = (0..dataset.len()).map(|index| hash(&own(&dataset.name(index)))).collect();
        hashes.sort_unstable();
        Keys(hashes)
    }

    /// Returns the key of an image, which is unique in the dataset.
    pub fn key(&self, name: &str, index: usize) -> String {
        let mut key = own(name);
        let first = self.0.partition_point(|h| *h < hash(&key));
        let shared = self.0.get(first + 1) == self.0.get(first);
        if shared {
            // Keys with different numbers differ, but an image may have such a name by itself.
            key = format!("{key}_{index}");
            while self.0.binary_search(&hash(&key)).is_ok() {
                key = format!("{key}_{index}");
            }
        }
        key
    }
}

/// Returns an image's name without its extension. In the file name dots become `_`, as a dot ends
/// the key; empty components, `.` and `..` are removed.
fn own(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').filter(|part| !["", ".", ".."].contains(part)).collect();
    let file = parts.pop().unwrap_or("image");
    let stem = file.rsplit_once('.').filter(|_| is_image(Path::new(file))).map_or(file, |(stem, _)| stem);
    let stem = stem.replace('.', "_");
    parts.push(&stem);
    parts.join("/")
}

fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_name_without_extension_and_dots() {
        for (name, key) in [
            ("cat/1.jpg", "cat/1"),
            ("v1.0/a.b.JPEG", "v1.0/a_b"),
            ("set/000001", "set/000001"),
            ("/data/../x/.y.png", "data/x/_y"),
            ("notes.2024", "notes_2024"),
            ("..", "image"),
        ] {
            assert_eq!(own(name), key, "{name}");
        }
    }

    #[test]
    fn keys_that_would_be_equal_end_in_their_numbers() {
        let names = ["a.jpg", "a.png", "b.png", "a_1.png", "a_1_1.png"];
        let mut hashes: Vec<u64> = names.iter().map(|name| hash(&own(name))).collect();
        hashes.sort_unstable();
        let keys = Keys(hashes);
        let made: Vec<String> = names.iter().zip(0..).map(|(name, index)| keys.key(name, index)).collect();
        assert_eq!(made, ["a_0", "a_1_1_1", "b", "a_1", "a_1_1"]);
    }
}
