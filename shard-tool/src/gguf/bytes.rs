//! The header of a GGUF file as a stream of checked little-endian values.
//!
//! Positional reads fetch a chunk at a time, up to the end of the file. The bytes are kept, since
//! the digest covers all of them. So the file's own length bounds the memory.

use std::path::{Path, PathBuf};

use crate::ranged_read::ReadAt;
use crate::{Error, ErrorKind};

/// The longest header. The largest known (260,000 tokens, 500,000 merges) have some 15 MB.
const HEADER_BYTES_MAX: u64 = 128 << 20;
/// The longest string. Chat templates have tens of kilobytes.
const STRING_BYTES_MAX: u64 = 4 << 20;
/// The bytes that are fetched at once, unless more are wanted.
const CHUNK_BYTES: u64 = 1 << 20;

/// The way out for a header that contradicts itself.
const DAMAGED: &str = "the file is truncated or damaged: download or copy it again";

/// A position in the header of a file. It moves over bytes that exist, and reading never panics.
pub(super) struct HeaderBytes<'f> {
    file: &'f dyn ReadAt,
    path: &'f Path,
    file_bytes: u64,
    held: Vec<u8>,
    at: usize,
}

impl<'f> HeaderBytes<'f> {
    pub(super) fn new(file: &'f dyn ReadAt, path: &'f Path, file_bytes: u64) -> Self {
        Self { file, path, file_bytes, held: Vec::new(), at: 0 }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The offset of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.at as u64
    }

    /// The bytes of the file after the position.
    pub(super) fn left(&self) -> u64 {
        self.file_bytes.saturating_sub(self.position())
    }

    /// An error at the position.
    pub(super) fn error(&self, kind: ErrorKind, cause: impl Into<String>) -> Error {
        Error::new(kind, cause).file(self.path).at(self.position())
    }

    /// Moves on by `count` bytes and returns them. `what` names them in the error.
    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<&[u8], Error> {
        if count > self.left() {
            let short = count - self.left();
            let cause = format!("the file ends within {what}: {short} bytes short");
            return Err(self.error(ErrorKind::Truncated, cause).way_out(DAMAGED));
        }
        let end = self.position() + count;
        if end > HEADER_BYTES_MAX {
            let cause = format!("the header is longer than {HEADER_BYTES_MAX} bytes, at {what}");
            return Err(self.error(ErrorKind::Format, cause));
        }
        self.hold(end)?;
        let taken = self.at..usize::try_from(end).unwrap_or(usize::MAX);
        self.at = taken.end;
        Ok(&self.held[taken])
    }

    /// Fetches the file up to `end`, which must lie within it.
    fn hold(&mut self, end: u64) -> Result<(), Error> {
        let held = self.held.len();
        if end <= held as u64 {
            return Ok(());
        }
        let until = end.max(held as u64 + CHUNK_BYTES).min(self.file_bytes);
        self.held.resize(usize::try_from(until).unwrap_or(usize::MAX), 0);
        self.file
            .fill(&mut self.held[held..], held as u64)
            .map_err(|error| Error::io(self.path, "read the header", &error))
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        let mut value = [0; N];
        value.copy_from_slice(self.take(N as u64, what)?);
        Ok(value)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Error> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Error> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Reads a count of things that take at least `bytes_each`, and refuses more than fit the file.
    pub(super) fn count(&mut self, what: &str, bytes_each: u64) -> Result<u64, Error> {
        let at = self.position();
        let count = self.u64(what)?;
        if count > self.left() / bytes_each {
            let cause = format!("{what} is {count}, more than the file has room for");
            return Err(self.error(ErrorKind::Format, cause).at(at).way_out(DAMAGED));
        }
        Ok(count)
    }

    /// Reads a string: its length, then UTF-8.
    pub(super) fn string(&mut self, what: &str) -> Result<String, Error> {
        let at = self.position();
        let length = self.u64(what)?;
        if length > STRING_BYTES_MAX {
            let cause = format!("{what} has {length} bytes; {STRING_BYTES_MAX} are allowed");
            return Err(self.error(ErrorKind::Format, cause).at(at));
        }
        let text = std::str::from_utf8(self.take(length, what)?).map(str::to_owned);
        text.map_err(|_| self.error(ErrorKind::Format, format!("{what} is not UTF-8")).at(at))
    }

    /// The digest of everything before the position.
    pub(super) fn digest(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.held[..self.at])
    }
}
