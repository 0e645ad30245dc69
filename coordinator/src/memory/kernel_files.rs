//! The kernel's files in `/proc` and `/sys`, below a root that tests choose.

use std::fs;
use std::path::{Path, PathBuf};

/// The tree of files in which the kernel tells about memory.
#[derive(Clone, Debug)]
pub struct KernelFiles {
    root: PathBuf,
}

impl KernelFiles {
    /// The files of this host.
    pub fn here() -> Self {
        Self::at("/")
    }

    /// The files below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The text of the file with this absolute path. It is empty if the file cannot be read, since
    /// no kernel has all of these files.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> String {
        let path = path.as_ref();
        let below_root = self.root.join(path.strip_prefix("/").unwrap_or(path));
        fs::read_to_string(below_root).unwrap_or_default()
    }
}

/// The number behind `key` in a text of lines `key number`.
pub(super) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}
