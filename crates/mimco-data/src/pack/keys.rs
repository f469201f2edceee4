//! What samples are called.

use crate::Dataset;
use crate::folders::is_image;
use crate::source::Fnv;
use std::path::Path;

/// Hashes of all images' own keys, in order: few bytes an image, as there may be millions.
pub(crate) struct Keys(Vec<u64>);

impl Keys {
    pub fn of(dataset: &Dataset) -> Keys {
        let mut hashes: Vec<u64> = (0..dataset.len()).map(|index| hash(&own(&dataset.name(index)))).collect();
        hashes.sort_unstable();
        Keys(hashes)
    }

    /// The key of an image, which no other of the set has.
    pub fn key(&self, name: &str, index: usize) -> String {
        let mut key = own(name);
        let first = self.0.partition_point(|h| *h < hash(&key));
        let shared = self.0.get(first + 1) == self.0.get(first);
        if shared {
            // Keys with different numbers behind them differ; what could be the same is an image that has such a name of its own.
            key = format!("{key}_{index}");
            while self.0.binary_search(&hash(&key)).is_ok() {
                key = format!("{key}_{index}");
            }
        }
        key
    }
}

/// An image's name without its ending. In the file's own name a dot would end the key, so dots become `_`; what is no name of a folder goes.
fn own(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').filter(|part| !["", ".", ".."].contains(part)).collect();
    let file = parts.pop().unwrap_or("image");
    let stem = file.rsplit_once('.').filter(|_| is_image(Path::new(file))).map_or(file, |(stem, _)| stem);
    let stem = stem.replace('.', "_");
    parts.push(&stem);
    parts.join("/")
}

fn hash(key: &str) -> u64 {
    let mut hash = Fnv::default();
    hash.add(key.as_bytes());
    hash.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_name_without_its_ending_and_dots() {
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
    fn keys_that_would_be_shared_end_in_their_numbers() {
        let names = ["a.jpg", "a.png", "b.png", "a_1.png", "a_1_1.png"];
        let mut hashes: Vec<u64> = names.iter().map(|name| hash(&own(name))).collect();
        hashes.sort_unstable();
        let keys = Keys(hashes);
        let made: Vec<String> = names.iter().zip(0..).map(|(name, index)| keys.key(name, index)).collect();
        assert_eq!(made, ["a_0", "a_1_1_1", "b", "a_1", "a_1_1"]);
    }
}
