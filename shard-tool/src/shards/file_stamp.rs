//! What the system says of a file of weights, to notice that it changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Checkpoint, Error};

/// The name of a file of weights, and what the system says of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileStamp {
    pub(super) name: String,
    bytes: u64,
    /// Seconds and nanoseconds of the last change.
    modified: [i64; 2],
    inode: u64,
}

/// The stamps of all files of weights.
pub(super) fn file_stamps(source: &Checkpoint) -> Result<Vec<FileStamp>, Error> {
    let files = source.weight_map().files();
    let stamped = files.map(|(file, _)| match file.file.metadata() {
        Ok(found) => Ok(FileStamp::new(&file.path, &found)),
        Err(error) => Err(Error::io(&file.path, "look at", &error)),
    });
    stamped.collect()
}

impl FileStamp {
    fn new(path: &Path, found: &Metadata) -> Self {
        Self {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            bytes: found.len(),
            modified: [found.mtime(), found.mtime_nsec()],
            inode: found.ino(),
        }
    }

    /// What differs from the stamp of a file with the same name.
    pub(super) fn differs(&self, then: &Self) -> Vec<&'static str> {
        let facts = [
            ("length", self.bytes == then.bytes),
            ("time of change", self.modified == then.modified),
            ("inode", self.inode == then.inode),
        ];
        facts.into_iter().filter(|(_, same)| !same).map(|(fact, _)| fact).collect()
    }
}
