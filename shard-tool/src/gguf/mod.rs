//! Reader of the GGUF container, versions 2 and 3, little-endian: metadata and tensor table.
//!
//! After the GGUF specification (ggml/docs/gguf.md). The header is never trusted: every count,
//! length, offset and type is checked against the bytes that are really there before memory is
//! taken, so a damaged file gives an error that names the place, in milliseconds. Tensor data are
//! not read here; [`crate::Checkpoint`] does that. Written are settings alone (`encode`), for shards.

mod bytes;
mod encode;
mod header;
mod kind;
mod metadata;
pub(crate) mod split;
mod table;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

pub(crate) use encode::encode;
pub use metadata::{GgufMetadata, MetadataArray, MetadataValue};
pub use split::SplitName;
pub use table::StoredTensor;

use crate::Error;
use crate::ranged_read::ReadAt;

/// What the header of a GGUF file says, checked against the file's length.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// Key-value pairs: hyperparameters, tokenizer, chat template.
    pub metadata: GgufMetadata,
    tensors: BTreeMap<String, StoredTensor>,
    header_digest: u64,
}

impl Gguf {
    /// Reads the header of an opened file of `file_bytes`; `path` is for messages.
    ///
    /// # Errors
    /// Any kind but `Layout`, with file, tensor or key, and offset.
    pub fn read(file: &File, path: &Path, file_bytes: u64) -> Result<Self, Error> {
        Self::read_from(file, path, file_bytes)
    }

    /// The same, of bytes that need not be here.
    pub(crate) fn read_from(
        file: &dyn ReadAt,
        path: &Path,
        file_bytes: u64,
    ) -> Result<Self, Error> {
        header::read_header(bytes::HeaderBytes::new(file, path, file_bytes))
    }

    /// The tensor of that name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &StoredTensor> {
        self.tensors.values()
    }

    /// XXH3-64 of all bytes before the tensor data.
    #[must_use]
    pub fn header_digest(&self) -> u64 {
        self.header_digest
    }
}
