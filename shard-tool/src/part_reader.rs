//! A rank's slice of a tensor, read from its beginning to its end in calls of any length.
//!
//! Loading onto a device reads straight into the memory that is uploaded from. The digest of a
//! shard is computed on the way, and compared when the last bytes were read.

use std::collections::VecDeque;
use std::ops::Range;

use xxhash_rust::xxh3::Xxh3;

use crate::weight_map::TensorData;
use crate::{Error, ErrorKind};

/// Reads a [`crate::LocalPart`] from its beginning to its end. [`crate::Checkpoint::reader`] makes
/// it.
pub struct PartReader<'s> {
    data: TensorData<'s>,
    /// The ranges of the tensor that were not read yet.
    left: VecDeque<Range<u64>>,
    /// The XXH3-64 of what was read so far, and the one that all bytes must have.
    digest: Option<(Xxh3, u64)>,
}

impl<'s> PartReader<'s> {
    pub(crate) fn new(data: TensorData<'s>, ranges: &[Range<u64>], digest: Option<u64>) -> Self {
        let digest = digest.map(|expected| (Xxh3::new(), expected));
        let left = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        Self { data, left, digest }
    }

    /// Fills `out` with the next bytes.
    ///
    /// # Errors
    /// `Io` or `Truncated` if the file changed since it was opened. `Mismatch` if fewer bytes are
    /// left than `out` has, if a scale is no number, or if the last bytes were read and the digest
    /// is not that of the shard.
    pub fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        let ranges = self.take(out.len() as u64)?;
        match self.data {
            TensorData::Stored(stored) => stored.read(&ranges, out)?,
            TensorData::Computed(view) => view.fill(&ranges, out)?,
        }
        let Some((digest, expected)) = &mut self.digest else { return Ok(()) };
        digest.update(out);
        if self.left.is_empty() && digest.digest() != *expected {
            let cause = "its bytes are not those that were written: the file is damaged";
            let error = self.refuse(cause).at(self.data.info().offset);
            return Err(error.way_out("copy it again, or shard the model again"));
        }
        Ok(())
    }

    /// Takes the next `bytes` off what is left, as ranges of the tensor.
    fn take(&mut self, mut bytes: u64) -> Result<Vec<Range<u64>>, Error> {
        let mut taken = Vec::new();
        while bytes > 0 {
            let Some(first) = self.left.front_mut() else {
                let cause = format!("{bytes} bytes more than the part has were asked for");
                return Err(self.refuse(&cause));
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

    fn refuse(&self, cause: &str) -> Error {
        let error = Error::new(ErrorKind::Mismatch, cause).tensor(&self.data.info().name);
        match self.data {
            TensorData::Stored(stored) => match &stored.file {
                Some(file) => error.file(&file.path),
                None => error,
            },
            TensorData::Computed(_) => error,
        }
    }
}
