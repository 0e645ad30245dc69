//! Shards: a checkpoint cut for a number of ranks, one safetensors file a rank, in a folder that
//! serves by itself.
//!
//! | file | holds |
//! |---|---|
//! | `rank-R-of-N.safetensors` | what rank R loads, in load order, packed as in the checkpoint |
//! | `manifest.json` | types and shapes, digests, the layout, what became of each source byte |
//! | `config.json`, `tokenizer.json`, ... or `metadata.gguf` | the settings of the checkpoint |
//!
//! Nothing is converted, so shards and checkpoint give the same bits. To cut shards for another
//! number of ranks takes the checkpoint.

mod cache_entry;
mod coverage;
mod cut;
mod file_stamp;
pub(crate) mod format;
mod header;
mod layout_record;
mod manifest;
pub(crate) mod open;
mod settings;
mod staging;
mod table;
mod verify;
mod write;

pub use cache_entry::{Changes, changes, verify_source, write_entry};
pub use format::{LAYOUT_VERSION, is_shards};
pub use verify::verify;
pub use write::write;
