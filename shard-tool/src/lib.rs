//! What a model is made of, and how it is cut across ranks.
//!
//! | module | holds |
//! |---|---|
//! | [`Checkpoint`] | an opened checkpoint: its description, its metadata, reads of slices |
//! | [`describe()`] | the description alone, also where there are no weights |
//! | [`spec`] | [`ModelSpec`]: layers, KV groups, tensors and where their parts come from |
//! | [`layout`] | which heads, FFN columns and vocabulary rows each rank holds (pure) |
//! | [`mod@slice`] | which byte ranges of a tensor each rank holds (pure) |
//! | [`gguf`] | the bounded reader of the GGUF container |
//! | `hf` | bounded readers of Hugging Face folders: `config.json`, index, safetensors |
//! | [`fit`] | what ranks hold, whether it fits, how fast it can be (pure) |
//! | [`hub`] | models by id from the Hugging Face hub, through its cache |
//! | `weight_map`, `data_file`, `ranged_read` | the places of tensors in files, positional reads |
//! | `forms` | the forms in which checkpoints store experts, scales and latent attention |
//! | `views` | matrices that are stored in another form, offered as if they were stored plainly |
//! | [`read_ahead`] | tensors that are read in parallel and handed over in order |
//! | [`files`] | writing and removing in folders that others may write to as well |
//! | [`command`] | the command of `binfer shard` and `shard-tool` |
//! | [`shards`] | a checkpoint cut for a number of ranks: written, opened, verified |
//! | `families` | the registry of architectures: from settings to a description |
//! | `keys` | decisions about settings that nobody reads |
//! | `decoder` | what the families of decoders share |
//! | [`dtype`], [`quant`], [`dequant`] | element types, the bits of their blocks, their values |
//! | [`Error`] | file, tensor, offset, cause, way out |
//!
//! The crate knows no devices. It does no arithmetic on weights except the reference in
//! [`dequant`].

mod checkpoint;
pub mod command;
mod data_file;
mod deal;
mod decoder;
pub mod dequant;
mod describe;
pub mod dtype;
mod error;
mod families;
mod ffn_spec;
pub mod files;
pub mod fit;
mod forms;
pub mod gguf;
mod hf;
pub mod hub;
mod keys;
pub mod layout;
mod part_reader;
pub mod quant;
mod ranged_read;
mod rank_layout;
mod read_ahead;
mod rope;
pub mod shards;
pub mod slice;
pub mod spec;
mod stored_tensor;
mod tensor_spec;
mod views;
mod weight_map;

pub use checkpoint::Checkpoint;
pub use describe::{Description, describe};
pub use dtype::{DType, UnsupportedDType};
pub use error::{Error, ErrorKind};
pub use gguf::Gguf;
pub use layout::{RankLayout, layouts};
pub use part_reader::PartReader;
pub(crate) use read_ahead::read_parts_ahead;
pub use read_ahead::{PartBytes, read_ahead};
pub use slice::{LocalPart, LocalTensor, local_tensor, local_tensors};
pub use spec::ModelSpec;
pub use stored_tensor::StoredTensor;
