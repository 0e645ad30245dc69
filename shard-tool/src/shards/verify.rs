//! Compares a folder of shards with the checkpoint that it was cut from, byte by byte.

use std::path::Path;

use super::cut::CutJob;
use super::format::{MANIFEST, SHARD_AGAIN, part_name};
use super::manifest::Manifest;
use super::settings;
use crate::hf::read_bounded;
use crate::{Checkpoint, Error, ErrorKind, LocalPart};

/// Cuts `source` again in memory, and compares slices, digests, coverage, manifest and settings
/// with those in `folder`. Returns the number of ranks. `progress` is that of [`super::write()`].
///
/// # Errors
/// `Mismatch` with file and tensor at the first difference, and those of opening and reading.
pub fn verify(
    source: &Checkpoint,
    folder: &Path,
    progress: impl FnMut(u64) -> bool,
) -> Result<u32, Error> {
    let refuse = |file: &str, cause: &str| {
        let error = Error::new(ErrorKind::Mismatch, cause).file(&folder.join(file));
        error.way_out(SHARD_AGAIN)
    };
    let shards = Checkpoint::open(folder)?;
    let Some(world) = shards.shards_world() else {
        let cause = "it holds a checkpoint, no shards";
        return Err(Error::new(ErrorKind::Mismatch, cause).file(folder));
    };
    let job = CutJob::new(source, world)?;
    let (found, _) = Manifest::read(folder)?;
    if found.source.digest.0 != source.digest() {
        let cause = format!("it was cut from another checkpoint, {:?}", found.source.name);
        return Err(refuse(MANIFEST, &cause));
    }
    for (name, content) in settings::contents(source)? {
        let path = folder.join(name);
        // A file that is longer differs, whatever its other bytes are.
        if !path.is_file() || read_bounded(&path, content.len() as u64).ok() != Some(content) {
            return Err(refuse(name, "it differs from that of the checkpoint"));
        }
    }
    let manifest = job.run(progress, |slice| {
        let source = part_name(&slice.part.source, job.layouts[slice.rank].rank);
        let part = LocalPart { source, ..slice.part.clone() }.packed();
        let mut there = vec![0; usize::try_from(part.bytes()).unwrap_or(usize::MAX)];
        shards.read_into(&part, &mut there)?;
        let mut rest = &there[..];
        let same = slice.pieces().all(|piece| {
            let (now, later) = rest.split_at(piece.len());
            rest = later;
            now == piece
        });
        if same {
            return Ok(());
        }
        let placed = &job.tables[slice.rank].parts[slice.index];
        let error =
            refuse(&job.tables[slice.rank].file, "its bytes are not those of the checkpoint");
        Err(error.tensor(&placed.name).at(placed.offset))
    })?;
    if !manifest.says_the_same(&found) {
        return Err(refuse(MANIFEST, "it does not say what was cut"));
    }
    Ok(world)
}
