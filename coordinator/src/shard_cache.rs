//! `--shard-cache`: keeps the shards of a model from one start to the next.
//!
//! An entry is named by the digest of the checkpoint and the rank count, never by the checkpoint's
//! path. The cache only makes starts faster. If anything is wrong with an entry, that is told, and
//! the checkpoint is served. An entry that does not match is neither used nor overwritten.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use binfer_shard::shards::{self, LAYOUT_VERSION};
use binfer_shard::{Checkpoint, Error};

use crate::report::Report;

/// The settings of the cache.
#[derive(Clone, Debug)]
pub struct ShardCache {
    /// The value of `--shard-cache`.
    pub dir: Option<PathBuf>,
    /// All bytes of an entry are compared with the checkpoint (`--shard-cache-verify`).
    pub verify: bool,
}

/// Why an entry of the cache is not used.
#[derive(Debug, thiserror::Error)]
enum Unused {
    #[error("holds another model, or is for other ranks")]
    Other,
    #[error("user {0} made it, who is neither you nor the owner of the folder")]
    OtherOwner(u32),
    #[error("a link, or no folder")]
    NoFolder,
    #[error("{} changed since it was cut", .0.join(", "))]
    Settings(Vec<String>),
    #[error(
        "{} changed since it was cut; if the bytes are the same, --shard-cache-verify finds out",
        .0.join(", ")
    )]
    Weights(Vec<String>),
    #[error(transparent)]
    Model(#[from] Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl ShardCache {
    /// Where to load `source` from for `world` ranks: its entry in the folder, made if it is not
    /// there, or `source` itself.
    pub fn source(&self, source: Checkpoint, world: usize, report: &Report) -> Checkpoint {
        let Some(dir) = &self.dir else { return source };
        let ranks = u32::try_from(world).unwrap_or(u32::MAX);
        let entry = format!("{:016x}-tp{world}-v{LAYOUT_VERSION}", source.digest());
        let entry = dir.join(entry);
        if let Ok(found) = entry.symlink_metadata() {
            return match self.open(&source, (&entry, &found), ranks, report) {
                Ok(shards) => shards,
                Err(cause) => {
                    let entry = entry.display();
                    report.line(&format!(
                        "--shard-cache: {entry}: {cause}: ignored; remove it to have it written anew"
                    ));
                    source
                }
            };
        }
        match fill(&source, ranks, &entry, report) {
            Ok(shards) => shards,
            Err(error) => {
                report.line(&format!("--shard-cache: ignored: {error}"));
                source
            }
        }
    }

    /// Opens an entry, if it is what would be cut from `source` now.
    fn open(
        &self,
        source: &Checkpoint,
        (entry, found): (&Path, &Metadata),
        ranks: u32,
        report: &Report,
    ) -> Result<Checkpoint, Unused> {
        check_owner(entry, found)?;
        let shards = Checkpoint::open(entry)?;
        let (world, cut) = (shards.shards_world(), shards.shards_source_digest());
        if (world, cut) != (Some(ranks), Some(source.digest())) {
            return Err(Unused::Other);
        }
        let changes = shards::changes(source, entry)?;
        if !changes.settings.is_empty() {
            return Err(Unused::Settings(changes.settings));
        }
        if self.verify {
            let total = source.spec().weight_bytes();
            let verified = shards::verify_source(source, entry, |done| {
                report.verifying(done, total);
                true
            });
            report.loaded();
            verified?;
            report.phase("shards verified");
        } else if !changes.weights.is_empty() {
            return Err(Unused::Weights(changes.weights));
        }
        Ok(shards)
    }
}

/// Checks who made an entry. The folder may be writable for others, and the settings in it are
/// used, so only entries of the folder's owner, of root and of this user are trusted.
fn check_owner(entry: &Path, found: &Metadata) -> Result<(), Unused> {
    if !found.is_dir() {
        return Err(Unused::NoFolder);
    }
    let folder = entry.parent().unwrap_or(entry).metadata()?.uid();
    let own = rustix::process::geteuid().as_raw();
    match found.uid() {
        owner if owner == 0 || owner == own || owner == folder => Ok(()),
        owner => Err(Unused::OtherOwner(owner)),
    }
}

/// Writes an entry and opens it.
fn fill(
    source: &Checkpoint,
    ranks: u32,
    entry: &Path,
    report: &Report,
) -> Result<Checkpoint, Error> {
    let total = source.spec().weight_bytes();
    let written = shards::write_entry(source, ranks, entry, |done| {
        report.sharding(done, total);
        true
    });
    report.loaded();
    written?;
    report.phase("shards written");
    Checkpoint::open(entry)
}
