//! Reader of the GGUF container, versions 2 and 3, little-endian: metadata and tensor infos.
//!
//! It follows the GGUF specification (ggml/docs/gguf.md). Every count, length, offset and type of
//! the header is checked against the bytes that are really there before memory is taken, so a
//! damaged file gives an error that names the place within milliseconds. The data of tensors are
//! read by [`crate::Checkpoint`]. `encode` writes settings alone, for shards.

mod bytes;
mod encode;
mod header;
mod kind;
mod metadata;
pub(crate) mod split;
mod table;

pub(crate) use encode::encode;
pub use header::Gguf;
pub use metadata::{GgufMetadata, MetadataArray, MetadataValue};
pub use split::SplitName;
