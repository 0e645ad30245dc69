//! A file that is being downloaded: its bytes so far, and which those are.
//!
//! It lies beside its future blob as `<etag>.<random>.binfer.incomplete`: the file's own bytes,
//! written at their places by several threads, and after them one counter a piece. So a download
//! that broke off goes on where each of its pieces was, if this user began it. (The Python library
//! appends to files of names of its own, so neither takes the other's for its own.) The name `<etag>`
//! is given only to what was checked.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::HubError;
use super::id::is_hex;
use crate::files::{Dir, random_name};

/// Bytes that one request asks for at most.
pub(super) const PIECE_BYTES: u64 = 64 << 20;
/// Ends the names of such files.
const ENDING: &str = ".binfer.incomplete";
const COUNTER_BYTES: u64 = 8;
/// Read at once when a file is checked.
const CHECK_BYTES: usize = 1 << 20;

/// A file of the hub, as the hub describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Path within the repository.
    pub(super) name: String,
    /// Name of its blob: its sha256, or its id in git.
    pub(super) etag: String,
    pub(super) bytes: u64,
}

/// A file on its way to be a blob.
#[derive(Debug)]
pub(super) struct Partial<'a> {
    remote: RemoteFile,
    blobs: &'a Dir,
    /// Until it is one.
    name: String,
    file: File,
}

impl<'a> Partial<'a> {
    /// Goes on with what an earlier download left, or begins.
    pub(super) fn open(remote: &RemoteFile, blobs: &'a Dir) -> Result<Self, HubError> {
        let whole = remote.bytes + pieces(remote.bytes) * COUNTER_BYTES;
        let open = || {
            let (name, file) = match left(blobs, &remote.etag)? {
                Some(left) => left,
                None => {
                    let name = format!("{}.{}{ENDING}", remote.etag, random_name());
                    let file = blobs.create(&name)?;
                    (name, file)
                }
            };
            if file.metadata()?.len() != whole {
                file.set_len(0)?; // counters of another division, or none
                file.set_len(whole)?;
            }
            Ok(Self { remote: remote.clone(), blobs, name, file })
        };
        open().map_err(HubError::cache(&blobs.path(&remote.etag)))
    }

    fn path(&self) -> PathBuf {
        self.blobs.path(&self.name)
    }

    pub(super) fn remote(&self) -> &RemoteFile {
        &self.remote
    }

    pub(super) fn pieces(&self) -> u64 {
        pieces(self.remote.bytes)
    }

    /// What is missing of a piece: its end, whose start is there already.
    pub(super) fn missing(&self, piece: u64) -> Result<Range<u64>, HubError> {
        let start = piece * PIECE_BYTES;
        let end = (start + PIECE_BYTES).min(self.remote.bytes);
        let mut counter = [0; size_of::<u64>()];
        let read = self.file.read_exact_at(&mut counter, self.counter(piece));
        read.map_err(HubError::cache(&self.path()))?;
        let there = u64::from_le_bytes(counter);
        let from = if there <= end - start { start + there } else { start };
        Ok(from..end)
    }

    /// Writes the next bytes of a piece, which belong at `at`, and notes that they are there.
    pub(super) fn write(&self, piece: u64, at: u64, bytes: &[u8]) -> Result<(), HubError> {
        let there = at + bytes.len() as u64 - piece * PIECE_BYTES;
        self.file
            .write_all_at(bytes, at)
            .and_then(|()| self.file.write_all_at(&there.to_le_bytes(), self.counter(piece)))
            .map_err(HubError::cache(&self.path()))
    }

    /// Checks the whole file and makes it a blob. One that is wrong is deleted; what has the blob's
    /// name already, and was found not to be it, is replaced.
    pub(super) fn finish(&self) -> Result<(), HubError> {
        let path = self.path();
        let failed = HubError::cache(&path);
        self.file.set_len(self.remote.bytes).map_err(&failed)?;
        if let Some(found) = self.other_digest().map_err(&failed)? {
            self.blobs.remove(&self.name).map_err(&failed)?;
            let RemoteFile { name, etag, .. } = &self.remote;
            return Err(HubError::Damaged(format!(
                "{name}: what arrived has the digest {found}, not {etag}; it was deleted, try again"
            )));
        }
        // A name that survives a power cut must not outlive the bytes.
        self.file.sync_data().map_err(&failed)?;
        let etag = &self.remote.etag;
        let renamed = self.blobs.rename(&self.name, self.blobs, etag);
        renamed.map_err(HubError::cache(&self.blobs.path(etag)))
    }

    /// The digest, if the etag is one and it is another.
    fn other_digest(&self) -> io::Result<Option<String>> {
        let etag = self.remote.etag.as_str();
        let mut context = match etag.len() {
            _ if !is_hex(etag) => return Ok(None),
            64 => Context::new(&SHA256),
            40 => {
                // Git's id of a blob.
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {}\0", self.remote.bytes).as_bytes());
                context
            }
            _ => return Ok(None),
        };
        let mut chunk = vec![0; CHECK_BYTES];
        let mut at = 0;
        loop {
            let count = self.file.read_at(&mut chunk, at)?;
            if count == 0 {
                break;
            }
            context.update(&chunk[..count]);
            at += count as u64;
        }
        let found = context.finish();
        let found: String = found.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((found != etag).then_some(found))
    }

    fn counter(&self, piece: u64) -> u64 {
        self.remote.bytes + piece * COUNTER_BYTES
    }
}

/// What an earlier download of this user left of a blob.
fn left(blobs: &Dir, etag: &str) -> io::Result<Option<(String, File)>> {
    for name in blobs.names()? {
        let rest = name.strip_prefix(etag);
        if rest.is_some_and(|rest| rest.starts_with('.') && rest.ends_with(ENDING))
            && let Some(file) = blobs.open_own(&name)?
        {
            return Ok(Some((name, file)));
        }
    }
    Ok(None)
}

fn pieces(bytes: u64) -> u64 {
    bytes.div_ceil(PIECE_BYTES)
}

/// Whether an etag can be the name of a blob.
pub(super) fn is_etag(etag: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=128).contains(&etag.len()) && etag.chars().all(legal)
}

/// Whether a blob is there and of that length.
pub(super) fn is_whole(blob: &Path, bytes: u64) -> bool {
    std::fs::metadata(blob).is_ok_and(|meta| meta.is_file() && meta.len() == bytes)
}
