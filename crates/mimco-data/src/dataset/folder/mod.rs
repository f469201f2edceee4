//! Datasets of image files: below a folder, in a list, or below a URL.

pub(super) mod file_tree;
pub(super) mod listing_cache;
pub(super) mod walk;

use crate::dataset::ImageSource;
use crate::storage::Storage;
use file_tree::FileTree;
use std::io;
use std::path::Path;

/// Image files; labelled ones are in class folders.
pub(super) struct Files {
    pub storage: Storage,
    pub tree: FileTree,
    /// The class of each folder of `tree`.
    pub labels: Option<Vec<u32>>,
}

impl ImageSource for Files {
    fn len(&self) -> usize {
        self.tree.len()
    }

    fn name(&self, image: usize) -> String {
        self.tree.name(image)
    }

    fn label(&self, image: usize) -> Option<u32> {
        Some(self.labels.as_ref()?[self.tree.folder_of(image)])
    }

    fn location(&self) -> String {
        self.storage.path().display().to_string()
    }

    fn read(&self, image: usize) -> io::Result<Vec<u8>> {
        self.storage.read(&self.tree.path(image), None)
    }

    fn is_transient(&self, error: &io::Error) -> bool {
        self.storage.is_transient(error)
    }

    fn write_listing_cache(&self, file: &Path) -> io::Result<()> {
        if self.storage.is_remote() { Ok(()) } else { listing_cache::write(file, self.storage.path(), &self.tree) }
    }
}
