//! `--shard-cache`: the shards of a model, kept from one start to the next.
//!
//! An entry is named by what was cut and for how many ranks, never by where the checkpoint lies.
//! A cache only makes starts faster: whatever is wrong with it is said, and the checkpoint is
//! served. What does not match, and what the checkpoint has outgrown, is neither used nor
//! overwritten.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use binfer_shard::shards::{self, LAYOUT_VERSION};
use binfer_shard::{Checkpoint, Error};

use crate::report::Report;

/// Where shards are kept, if at all.
#[derive(Clone, Debug)]
pub struct ShardCache {
    /// `--shard-cache`.
    pub dir: Option<PathBuf>,
    /// `--shard-cache-verify`: all weights are read to see whether shards are still theirs.
    pub verify: bool,
}

/// Why an entry is not used.
#[derive(Debug, thiserror::Error)]
enum Unused {
    #[error("holds another model, or is for other ranks")]
    Other,
    #[error("user {0} made it, who is neither you nor the owner of the folder")]
    Stranger(u32),
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

    /// Opens an entry, if it is what would be cut of `source` today.
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

/// Of a folder that many write to, only what its owner, root or this user made is used: settings
/// out of it are served.
fn check_owner(entry: &Path, found: &Metadata) -> Result<(), Unused> {
    if !found.is_dir() {
        return Err(Unused::NoFolder);
    }
    let folder = entry.parent().unwrap_or(entry).metadata()?.uid();
    let own = rustix::process::geteuid().as_raw();
    match found.uid() {
        owner if owner == 0 || owner == own || owner == folder => Ok(()),
        owner => Err(Unused::Stranger(owner)),
    }
}

/// Writes the entry and opens it.
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
