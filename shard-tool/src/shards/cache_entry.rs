//! Entries of a cache of shards: which checkpoint they were cut from, and whether it is still that.
//!
//! An entry is found by the checkpoint's digest, which samples weights and knows one of the files of
//! settings. So before it is used, settings are compared whole, and files of weights by what the
//! system says of them: name, length, time of change and inode. Where those differ, only a pass over
//! all weights can tell ([`verify_source`]).

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cut::CutJob;
use super::manifest::Manifest;
use super::settings::{self, METADATA};
use super::write::write_folder;
use crate::hf::{TEXTS, bounded, not_json};
use crate::{Checkpoint, Error, ErrorKind};

/// Beside the shards of an entry: the files that they were cut from.
const SOURCE: &str = "source.json";
/// More than the list of any number of files that is opened.
const SOURCE_BYTES_MAX: u64 = 16 << 20;

/// What is not as it was when an entry was cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Files of settings.
    pub settings: Vec<String>,
    /// Files of weights, each with what changed; their contents may be the same.
    pub weights: Vec<String>,
}

/// What the system says of a file of weights.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileStamp {
    name: String,
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: [i64; 2],
    inode: u64,
}

/// Cuts `source` into an entry of a cache, as [`super::write()`] does.
///
/// # Errors
/// As [`super::write()`].
pub fn write_entry(
    source: &Checkpoint,
    world: u32,
    entry: &Path,
    progress: impl FnMut(u64) -> bool,
) -> Result<(), Error> {
    let text = serde_json::to_vec(&file_stamps(source)?)
        .map_err(|error| Error::new(ErrorKind::Format, error.to_string()))?;
    write_folder(&CutJob::new(source, world)?, entry, Some((SOURCE, text)), progress)
}

/// Compares a checkpoint with what an entry was cut from, weights by what the system says of them.
///
/// # Errors
/// Of reading both; `Format` for shards that are no entry of a cache.
pub fn changes(source: &Checkpoint, entry: &Path) -> Result<Changes, Error> {
    let mut changes = Changes::default();
    let now = settings::contents(source)?;
    for name in TEXTS.iter().copied().chain([METADATA]) {
        let path = entry.join(name);
        let bytes = now.iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes);
        let same = match bytes {
            // One byte more than there should be tells as much as all of them.
            Some(bytes) if path.is_file() => {
                bounded(&path, bytes.len() as u64).ok().as_ref() == Some(bytes)
            }
            Some(_) => false,
            None => !path.exists(),
        };
        if !same {
            changes.settings.push(name.to_owned());
        }
    }
    let path = entry.join(SOURCE);
    let text = bounded(&path, SOURCE_BYTES_MAX)?;
    let then: Vec<FileStamp> =
        serde_json::from_slice(&text).map_err(|error| not_json(&path, &error))?;
    let now = file_stamps(source)?;
    for stamp in &now {
        let then = then.iter().find(|then| then.name == stamp.name);
        let differs = then.map_or_else(|| vec!["new"], |then| stamp.differs(then));
        if !differs.is_empty() {
            changes.weights.push(format!("{} ({})", stamp.name, differs.join(", ")));
        }
    }
    let gone = then.iter().filter(|then| now.iter().all(|stamp| stamp.name != then.name));
    changes.weights.extend(gone.map(|then| format!("{} (gone)", then.name)));
    Ok(changes)
}

/// Compares a checkpoint's weights with the digests of what an entry was cut from: every byte of
/// the checkpoint is read. `progress` is as in [`super::write()`].
///
/// # Errors
/// `Mismatch` with the tensor that differs, and all of opening and reading.
pub fn verify_source(
    source: &Checkpoint,
    entry: &Path,
    progress: impl FnMut(u64) -> bool,
) -> Result<(), Error> {
    let (then, _) = Manifest::read(entry)?;
    let job = CutJob::new(source, then.layout.tensor_parallel)?;
    let now = job.run(progress, |_| Ok(()))?;
    if now.source.tensors == then.source.tensors {
        return Ok(());
    }
    let mut pairs = now.source.tensors.iter().zip(&then.source.tensors);
    let other = pairs.find(|(now, then)| now != then).map_or("", |(now, _)| now.name.as_str());
    let cause = "its bytes are not those that the entry was cut from";
    Err(Error::new(ErrorKind::Mismatch, cause).file(source.path()).tensor(other))
}

/// Of each file of weights.
pub(super) fn file_stamps(source: &Checkpoint) -> Result<Vec<FileStamp>, Error> {
    let stamp = |path: &Path, meta: &Metadata| FileStamp {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        bytes: meta.len(),
        modified: [meta.mtime(), meta.mtime_nsec()],
        inode: meta.ino(),
    };
    let files = source.weight_map().files();
    let stamped = files.map(|(file, _)| match file.file.metadata() {
        Ok(meta) => Ok(stamp(&file.path, &meta)),
        Err(error) => Err(Error::io(&file.path, "look at", &error)),
    });
    stamped.collect()
}

impl FileStamp {
    /// What another of the same name has otherwise.
    fn differs(&self, then: &Self) -> Vec<&'static str> {
        let facts = [
            ("length", self.bytes == then.bytes),
            ("time of change", self.modified == then.modified),
            ("inode", self.inode == then.inode),
        ];
        facts.into_iter().filter(|(_, same)| !same).map(|(fact, _)| fact).collect()
    }
}
