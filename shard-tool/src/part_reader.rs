//! A rank's share of a tensor, read from its beginning to its end in pieces of any length.
//!
//! Loading onto a device reads through it, straight into the memory that is uploaded from. A shard's
//! checksum is worked out on the way and compared with the last piece. Deliberately absent: what the
//! bytes mean.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use xxhash_rust::xxh3::Xxh3;

use crate::gguf::StoredTensor;
use crate::ranged_read::read_ranges;
use crate::weight_map::DataFile;
use crate::{Error, ErrorKind};

/// See the module; made by [`crate::Checkpoint::reader`].
pub struct PartReader<'s> {
    file: &'s DataFile,
    tensor: &'s StoredTensor,
    /// Bytes of the tensor that were not read yet.
    left: VecDeque<Range<u64>>,
    /// XXH3-64 of what was read so far, and what it must come to.
    written: Option<(Xxh3, u64)>,
}

impl<'s> PartReader<'s> {
    pub(crate) fn new(
        (file, tensor): (&'s DataFile, &'s StoredTensor),
        ranges: &[Range<u64>],
        written: Option<u64>,
    ) -> Self {
        let written = written.map(|digest| (Xxh3::new(), digest));
        let left = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        Self { file, tensor, left, written }
    }

    /// Fills `out` with the next bytes.
    ///
    /// # Errors
    /// `Io` or `Truncated` when the file changed since it was opened; `Mismatch` when fewer bytes are
    /// left than `out` has, or, with the last of them, when they are not those that were written.
    pub fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        let ranges = self.take(out.len() as u64)?;
        read_ranges(&self.file.file, self.tensor.offset, &ranges, out)
            .map_err(|(at, error)| self.read_error(&error).tensor(&self.tensor.name).at(at))?;
        let Some((digest, written)) = &mut self.written else { return Ok(()) };
        digest.update(out);
        if self.left.is_empty() && digest.digest() != *written {
            let cause = "its bytes are not those that were written: the file is damaged";
            let error = Error::new(ErrorKind::Mismatch, cause).file(&self.file.path);
            let error = error.tensor(&self.tensor.name).at(self.tensor.offset);
            return Err(error.way_out("copy it again, or shard the model again"));
        }
        Ok(())
    }

    /// The next so many bytes, as ranges of the tensor.
    fn take(&mut self, mut bytes: u64) -> Result<Vec<Range<u64>>, Error> {
        let mut taken = Vec::new();
        while bytes > 0 {
            let Some(first) = self.left.front_mut() else {
                let cause = format!("{bytes} bytes more than the part has were asked for");
                let error = Error::new(ErrorKind::Mismatch, cause).file(&self.file.path);
                return Err(error.tensor(&self.tensor.name));
            };
            let end = first.start.saturating_add(bytes).min(first.end);
            taken.push(first.start..end);
            bytes -= end - first.start;
            first.start = end;
            if first.start >= first.end {
                self.left.pop_front();
            }
        }
        Ok(taken)
    }

    fn read_error(&self, error: &io::Error) -> Error {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let cause = "the file became shorter while it was read";
            return Error::new(ErrorKind::Truncated, cause).file(&self.file.path);
        }
        Error::io(&self.file.path, "read weights", error)
    }
}
