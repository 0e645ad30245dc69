//! A file that is being downloaded: its bytes so far, and which bytes those are.
//!
//! It lies beside its later blob as `<etag>.<random>.binfer.incomplete`. It holds the file's own
//! bytes, which several threads write at their places, and after them one counter for each piece.
//! So a download that broke off goes on where each piece was, if the same user began it. The Python
//! library gives its files other names, so neither program takes the other's for its own. A file
//! gets the name `<etag>` only after it was checked.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::HubError;
use super::id::is_hex;
use crate::files::{Dir, is_random_name, random_name};

/// The most bytes that one request asks for.
pub(super) const PIECE_BYTES: u64 = 64 << 20;
/// The end of the names of partial files.
const ENDING: &str = ".binfer.incomplete";
/// The bytes of a piece's counter.
const COUNTER_BYTES: u64 = 8;
/// A partial file to which nothing was added for so long is removed: its download was given up, or
/// the repository has another file by now.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// The bytes that are read at once when a file is checked.
const CHECK_BYTES: usize = 1 << 20;

/// A file on the hub, as the hub describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// The path within the repository.
    pub(super) name: String,
    /// The name of its blob: its sha256, or its id in git.
    pub(super) etag: String,
    pub(super) bytes: u64,
}

/// A file that is not whole yet.
#[derive(Debug)]
pub(super) struct PartialFile<'a> {
    remote: RemoteFile,
    blobs: &'a Dir,
    /// Its name until it is a blob.
    name: String,
    file: File,
}

impl<'a> PartialFile<'a> {
    /// Opens the file that an earlier download left, or makes one.
    pub(super) fn open(remote: &RemoteFile, blobs: &'a Dir) -> Result<Self, HubError> {
        let whole = remote.bytes + pieces(remote.bytes) * COUNTER_BYTES;
        let open = || {
            let (name, file) = match find_partial(blobs, &remote.etag)? {
                Some(found) => found,
                None => {
                    let name = format!("{}.{}{ENDING}", remote.etag, random_name());
                    let file = blobs.create(&name)?;
                    (name, file)
                }
            };
            if file.metadata()?.len() != whole {
                file.set_len(0)?; // its counters are those of another division into pieces, or missing
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

    /// The bytes that are missing of a piece. They are its end, since its beginning comes first.
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

    /// Writes the next bytes of a piece at `at`, and counts them.
    pub(super) fn write(&self, piece: u64, at: u64, bytes: &[u8]) -> Result<(), HubError> {
        let there = at + bytes.len() as u64 - piece * PIECE_BYTES;
        self.file
            .write_all_at(bytes, at)
            .and_then(|()| self.file.write_all_at(&there.to_le_bytes(), self.counter(piece)))
            .map_err(HubError::cache(&self.path()))
    }

    /// Checks the whole file and makes it a blob. A file with another digest is deleted. A file
    /// that has the blob's name, and was found not to be the blob, is replaced.
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
        // After a power cut, a name must not be there without its bytes.
        self.file.sync_data().map_err(&failed)?;
        let etag = &self.remote.etag;
        let renamed = self.blobs.rename(&self.name, self.blobs, etag);
        renamed.map_err(HubError::cache(&self.blobs.path(etag)))
    }

    /// The digest of the file, if the etag is another digest. `None` if they agree, or if the etag
    /// is not a digest.
    fn other_digest(&self) -> io::Result<Option<String>> {
        let etag = self.remote.etag.as_str();
        let mut context = match etag.len() {
            _ if !is_hex(etag) => return Ok(None),
            64 => Context::new(&SHA256),
            40 => {
                // This is git's id of a blob.
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

/// The partial file that an earlier download of this user left of a blob.
fn find_partial(blobs: &Dir, etag: &str) -> io::Result<Option<(String, File)>> {
    for name in blobs.names()? {
        if etag_of(&name) == Some(etag)
            && let Some(file) = blobs.open_own(&name)?
        {
            return Ok(Some((name, file)));
        }
    }
    Ok(None)
}

/// The etag in the name of a partial file. `None` if a file has another kind of name.
fn etag_of(name: &str) -> Option<&str> {
    let (etag, random) = name.strip_suffix(ENDING)?.rsplit_once('.')?;
    is_random_name(random).then_some(etag)
}

/// Removes partial files of this user whose downloads were given up long ago. The caller holds the
/// repository's lock, so no download of this program writes to them.
pub(super) fn remove_given_up(blobs: &Dir) -> io::Result<()> {
    for name in blobs.names()?.iter().filter(|name| etag_of(name).is_some()) {
        let Some(file) = blobs.open_own(name)? else { continue };
        // A time of change in the future has no age.
        let age = file.metadata()?.modified()?.elapsed();
        if age.is_ok_and(|age| age > GIVEN_UP_AFTER) {
            blobs.remove(name)?;
        }
    }
    Ok(())
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
