//! What a model is made of and how it is cut across ranks.
//!
//! | module | is |
//! |---|---|
//! | [`Checkpoint`] | an opened checkpoint: its spec, its metadata, positional reads of slices |
//! | [`describe()`] | the spec alone, also where there are no weights |
//! | [`spec`] | [`ModelSpec`]: layers, KV groups, tensors and where their parts come from |
//! | [`layout`] | pure: which heads, FFN columns and vocabulary rows each rank holds |
//! | [`mod@slice`] | pure: tensor x layout -> byte ranges of the checkpoint |
//! | [`gguf`] | bounded reader of the GGUF container |
//! | `hf` | bounded readers of Hugging Face folders: `config.json`, index, safetensors |
//! | [`fit`] | pure: what ranks hold, whether it fits, how fast it can be |
//! | [`hub`] | models by id from the Hugging Face hub, through its cache |
//! | `weight_map`, `ranged_read` | where tensors lie in files; positional reads |
//! | [`read_ahead`] | tensors read in parallel, handed over in order |
//! | [`files`] | writing and removing in folders that others may write to as well |
//! | [`command`] | what `binfer shard` and `shard-tool` do |
//! | [`shards`] | a checkpoint cut for a number of ranks: written, opened, verified |
//! | `families` | the registry: settings -> spec, one table an architecture |
//! | `keys` | what to do about settings that nobody reads |
//! | `dense` | what the tables of dense decoders share |
//! | [`dtype`], [`quant`], [`dequant`] | element types, where their blocks keep what, its meaning |
//! | [`Error`] | file, tensor, offset, cause, way out |
//!
//! Deliberately absent: devices, memory maps (a file that changes would tear them), and any
//! arithmetic on weights except the reference in [`dequant`].

mod checkpoint;
pub mod command;
mod dense;
pub mod dequant;
mod describe;
pub mod dtype;
mod error;
mod families;
pub mod files;
pub mod fit;
pub mod gguf;
mod hf;
pub mod hub;
mod keys;
pub mod layout;
mod part_reader;
pub mod quant;
mod ranged_read;
mod read_ahead;
mod rope;
pub mod shards;
pub mod slice;
pub mod spec;
mod weight_map;

pub use checkpoint::Checkpoint;
pub use describe::{Description, describe};
pub use dtype::DType;
pub use error::{Error, ErrorKind};
pub use gguf::Gguf;
pub use layout::{RankLayout, layouts};
pub use part_reader::PartReader;
pub use read_ahead::{PartBytes, read_ahead};
pub use slice::{LocalPart, LocalTensor, local_tensor, local_tensors};
pub use spec::ModelSpec;
