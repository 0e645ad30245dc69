//! `--shard-cache`: the shards of a model, kept from one start to the next.
//!
//! An entry is named by what was cut and for how many ranks, never by where the checkpoint lies.
//! A cache only makes starts faster: whatever is wrong with it is said, and the checkpoint is
//! served. What does not match is neither used nor overwritten.

use std::path::Path;

use binfer_shard::shards::{self, LAYOUT_VERSION};
use binfer_shard::{Error, Source};

use crate::report::Report;

/// Where to load `source` from for `world` ranks: its entry in `dir`, made if it is not there, or
/// `source` itself.
pub fn source(dir: &Path, source: Source, world: usize, report: &Report) -> Source {
    let ranks = u32::try_from(world).unwrap_or(u32::MAX);
    let entry = format!("{:016x}-tp{world}-v{LAYOUT_VERSION}", source.digest());
    let entry = dir.join(entry);
    let found = if entry.symlink_metadata().is_ok() {
        Source::open(&entry)
    } else {
        fill(&source, ranks, &entry, report)
    };
    let matches = |shards: &Source| {
        shards.shards_world() == Some(ranks)
            && shards.shards_source_digest() == Some(source.digest())
    };
    match found {
        Ok(shards) if matches(&shards) => shards,
        Ok(_) => {
            let entry = entry.display();
            report.line(&format!(
                "--shard-cache: {entry} holds another model, or is for other ranks: ignored"
            ));
            source
        }
        Err(error) => {
            report.line(&format!("--shard-cache: ignored: {error}"));
            source
        }
    }
}

/// Writes the entry and opens it.
fn fill(source: &Source, ranks: u32, entry: &Path, report: &Report) -> Result<Source, Error> {
    let total = source.spec().weight_bytes();
    let written = shards::write(source, ranks, entry, |done| {
        report.sharding(done, total);
        true
    });
    report.loaded();
    written?;
    report.phase("shards written");
    Source::open(entry)
}
