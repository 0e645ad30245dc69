//! Shards: a checkpoint cut for a number of ranks, one safetensors file a rank, in a folder that
//! serves by itself.
//!
//! | file | holds |
//! |---|---|
//! | `rank-R-of-N.safetensors` | what rank R loads, in load order, packed as in the checkpoint |
//! | `manifest.json` | types and shapes, digests, the layout, what became of each source byte |
//! | `config.json`, `tokenizer.json`, ... or `metadata.gguf` | the settings of the checkpoint |
//!
//! Nothing is converted, so shards and checkpoint give the same bits. Deliberately absent: cutting
//! shards anew for another number of ranks, which takes the checkpoint.

mod cache_entry;
mod coverage;
mod cut;
mod manifest;
pub(crate) mod open;
mod settings;
mod staging;
mod table;
mod verify;
mod write;

use std::path::Path;

pub use cache_entry::{Changes, changes, verify_source, write_entry};
pub use verify::verify;
pub use write::write;

use crate::{Error, ErrorKind, ModelSpec, hf};

const FORMAT: &str = "binfer-shards";
/// Counts changes to files and manifest that older or newer programs would misread.
pub const LAYOUT_VERSION: u32 = 1;
const MANIFEST: &str = "manifest.json";
const SHARD_AGAIN: &str = "shard the model again";

/// Whether a folder holds shards rather than a checkpoint.
#[must_use]
pub fn is_shards(folder: &Path) -> bool {
    folder.join(MANIFEST).is_file() && !hf::has_weights(folder)
}

/// A spec as the manifest has it: numbers as JSON reads them back.
fn spec_value(spec: &ModelSpec) -> Result<serde_json::Value, Error> {
    let value = serde_json::to_string(spec).and_then(|text| serde_json::from_str(&text));
    value.map_err(|error| Error::new(ErrorKind::Format, error.to_string()))
}
