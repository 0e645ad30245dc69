//! Writes a folder of shards. Slices go to the ranks' files while the next tensors are read.
//!
//! A few of the largest tensors bound the memory. Each byte is read once and written once.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::cut::{CutJob, Slice};
use super::file_stamp::file_stamps;
use super::settings;
use super::staging::StagingFolder;
use super::table::RankTable;
use crate::{Checkpoint, Error, ErrorKind};

/// The number of slices that may wait for the disk.
const WAITING: usize = 4;
/// Ranges that are shorter than this are written together.
const GATHER_BYTES: usize = 1 << 20;

/// Cuts `source` for `world` ranks into the folder `out`. `progress` is told how many bytes were
/// read. If it returns false, the writing ends.
///
/// # Errors
/// `Layout` if the model cannot be cut for that number of ranks, `Unsupported` if `source` is made
/// of shards, and those of reading and writing. After an error, `out` does not exist.
pub fn write(
    source: &Checkpoint,
    world: u32,
    out: &Path,
    progress: impl FnMut(u64) -> bool,
) -> Result<(), Error> {
    write_folder(&CutJob::new(source, world)?, out, None, progress)
}

/// Writes the folder of a job. `also` is the name and content of one more small file.
pub(super) fn write_folder(
    job: &CutJob<'_>,
    out: &Path,
    also: Option<(&str, Vec<u8>)>,
    progress: impl FnMut(u64) -> bool,
) -> Result<(), Error> {
    let (source, began) = (job.source, file_stamps(job.source)?);
    let mut staging = StagingFolder::begin(out)?;
    let file = |table: &RankTable| staging.file(&table.file, table.file_bytes);
    let files = job.tables.iter().map(file).collect::<Result<Vec<_>, _>>()?;
    for (name, content) in settings::contents(source)?.into_iter().chain(also) {
        staging.write(name, &content)?;
    }
    let failed = |(rank, error): (usize, std::io::Error)| {
        let error = Error::io(&out.join(&job.tables[rank].file), "write", &error);
        error.way_out("nothing was left behind")
    };
    let manifest = thread::scope(|scope| {
        let (slices, waiting) = sync_channel(WAITING);
        let writer = scope.spawn(|| write_slices(&job.tables, &files, waiting));
        let gone = |_| Error::new(ErrorKind::Io, "the writer gave up");
        let cut = job.run(progress, |slice| slices.send(slice).map_err(gone));
        drop(slices);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // The writer's error comes first: because of it nothing more could be sent.
        written.map_err(failed)?;
        cut
    })?;
    for (rank, file) in files.iter().enumerate() {
        file.sync_all().map_err(|error| failed((rank, error)))?;
    }
    if file_stamps(source)? != began {
        let cause = "its weights changed while they were cut";
        let error = Error::new(ErrorKind::Mismatch, cause).file(source.path());
        return Err(error.way_out("nothing was left behind; try again"));
    }
    staging.commit(&manifest.text()?)
}

/// Writes headers, then slices as they come. An error comes with the rank of its file.
fn write_slices(
    tables: &[RankTable],
    files: &[File],
    slices: Receiver<Slice>,
) -> Result<(), (usize, std::io::Error)> {
    for (rank, (table, file)) in tables.iter().zip(files).enumerate() {
        file.write_all_at(&table.header, 0).map_err(|error| (rank, error))?;
    }
    let mut buffer = Vec::with_capacity(GATHER_BYTES);
    for slice in slices {
        let (rank, offset) = (slice.rank, tables[slice.rank].parts[slice.index].offset);
        write_slice(&files[rank], offset, &slice, &mut buffer).map_err(|error| (rank, error))?;
    }
    Ok(())
}

/// Writes a slice to its place: each long range by itself, and short ones together.
fn write_slice(
    file: &File,
    mut offset: u64,
    slice: &Slice,
    buffer: &mut Vec<u8>,
) -> std::io::Result<()> {
    let mut write = |bytes: &[u8]| {
        file.write_all_at(bytes, offset)?;
        offset += bytes.len() as u64;
        Ok::<_, std::io::Error>(())
    };
    buffer.clear();
    for piece in slice.pieces() {
        if buffer.len() + piece.len() > GATHER_BYTES {
            write(buffer)?;
            buffer.clear();
        }
        if piece.len() < GATHER_BYTES {
            buffer.extend_from_slice(piece);
        } else {
            write(piece)?;
        }
    }
    write(buffer)
}
