//! Writes a folder of shards: slices go to the ranks' files while the next tensors are being read.
//!
//! Memory is bounded by a few of the largest tensors; each byte is read once and written once.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::cut::{Job, Slice};
use super::settings;
use super::staging::Staging;
use super::table::RankTable;
use crate::{Error, ErrorKind, Source};

/// Slices that wait for the disk.
const WAITING: usize = 4;

/// Cuts `source` for `world` ranks into the folder `out`; `progress` hears of bytes read so far.
///
/// # Errors
/// `Layout` when the model cannot be cut so, `Unsupported` when `source` is made of shards itself,
/// and all of reading and writing. Whatever the error, `out` is not there.
pub fn write(
    source: &Source,
    world: u32,
    out: &Path,
    progress: impl FnMut(u64),
) -> Result<(), Error> {
    let job = Job::new(source, world)?;
    let staging = Staging::begin(out)?;
    let file = |table: &RankTable| staging.file(&table.file, table.file_bytes);
    let files = job.tables.iter().map(file).collect::<Result<Vec<_>, _>>()?;
    for (name, content) in settings::contents(source)? {
        staging.write(name, &content)?;
    }
    let manifest = thread::scope(|scope| {
        let (slices, waiting) = sync_channel(WAITING);
        let writer = scope.spawn(|| write_slices(&job.tables, &files, waiting));
        let gone = |_| Error::new(ErrorKind::Io, "the writer gave up");
        let cut = job.run(progress, |Slice { rank, index, bytes, .. }| {
            slices.send((rank, index, bytes)).map_err(gone)
        });
        drop(slices);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // First, because it is why nothing more could be sent.
        written.map_err(|(rank, error)| {
            let error = Error::io(&out.join(&job.tables[rank].file), "write", &error);
            error.way_out("nothing was left behind")
        })?;
        cut
    })?;
    staging.commit(&manifest.text()?)
}

/// Writes headers, then slices (rank, part, bytes) as they come, then waits for the disk. An error
/// comes with the rank whose file it is.
fn write_slices(
    tables: &[RankTable],
    files: &[File],
    slices: Receiver<(usize, usize, Vec<u8>)>,
) -> Result<(), (usize, std::io::Error)> {
    for (rank, (table, file)) in tables.iter().zip(files).enumerate() {
        file.write_all_at(&table.header, 0).map_err(|error| (rank, error))?;
    }
    for (rank, part, bytes) in slices {
        let offset = tables[rank].parts[part].offset;
        files[rank].write_all_at(&bytes, offset).map_err(|error| (rank, error))?;
    }
    for (rank, file) in files.iter().enumerate() {
        file.sync_all().map_err(|error| (rank, error))?;
    }
    Ok(())
}
