//! The entries of a cache of shards, and whether their checkpoint has changed since.
//!
//! The digest that names an entry covers one file of settings and samples the weights. So before an
//! entry is used, all settings are compared, and files of weights by what the system says of them:
//! name, length, time of change and inode. If those differ, only a pass over all weights can tell
//! whether the bytes did ([`verify_source`]).

use std::path::Path;

use super::cut::CutJob;
use super::file_stamp::{FileStamp, file_stamps};
use super::format::METADATA;
use super::manifest::Manifest;
use super::settings;
use super::write::write_folder;
use crate::hf::{TEXT_FILES, not_json, read_bounded};
use crate::{Checkpoint, Error, ErrorKind};

/// The file beside the shards of an entry that lists the stamps of the checkpoint's files.
const SOURCE: &str = "source.json";
/// The longest such list. No checkpoint has so many files.
const SOURCE_BYTES_MAX: u64 = 16 << 20;

/// What changed of a checkpoint since an entry was cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The files of settings that changed.
    pub settings: Vec<String>,
    /// The files of weights that changed, each with what the system says. Their bytes may be the
    /// same.
    pub weights: Vec<String>,
}

/// Cuts `source` into an entry of a cache, as [`super::write()`] does.
///
/// # Errors
/// Those of [`super::write()`].
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

/// Compares a checkpoint with what an entry was cut from. Weights are compared by their stamps.
///
/// # Errors
/// Those of reading both, and `Format` for shards that are not an entry of a cache.
pub fn changes(source: &Checkpoint, entry: &Path) -> Result<Changes, Error> {
    let mut changes = Changes::default();
    let now = settings::contents(source)?;
    for name in TEXT_FILES.iter().copied().chain([METADATA]) {
        let path = entry.join(name);
        let bytes = now.iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes);
        let same = match bytes {
            // A file that is longer differs, whatever its other bytes are.
            Some(bytes) if path.is_file() => {
                read_bounded(&path, bytes.len() as u64).ok().as_ref() == Some(bytes)
            }
            Some(_) => false,
            None => !path.exists(),
        };
        if !same {
            changes.settings.push(name.to_owned());
        }
    }
    let path = entry.join(SOURCE);
    let text = read_bounded(&path, SOURCE_BYTES_MAX)?;
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

/// Compares a checkpoint's weights with the digests of what an entry was cut from. It reads every
/// byte of the checkpoint. `progress` is that of [`super::write()`].
///
/// # Errors
/// `Mismatch` with the tensor that differs, and those of opening and reading.
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
