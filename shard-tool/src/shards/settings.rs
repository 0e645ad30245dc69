//! The settings beside the weights in a folder of shards, so that it serves without the checkpoint.
//!
//! For a Hugging Face folder they are its text files. For a GGUF file they are its metadata
//! (tokenizer, chat template, hyperparameters), as a GGUF file without weights.

use std::collections::BTreeSet;
use std::path::Path;

use super::format::METADATA;
use crate::gguf::encode;
use crate::hf::{TEXT_FILES, read_bounded};
use crate::{Checkpoint, Error};

/// The longest text file, which is longer than any that the readers accept.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// The names and contents of the settings' files.
pub(super) fn contents(source: &Checkpoint) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let Some(gguf) = source.gguf() else {
        return text_files(source.path());
    };
    let weight_map = source.weight_map();
    let names = unused(source);
    let read = |name: &&str| {
        let stored = weight_map.mapped(name)?;
        let mut bytes = vec![0; usize::try_from(stored.info.bytes).ok()?];
        let whole = 0..stored.info.bytes;
        let read = stored.read(std::slice::from_ref(&whole), &mut bytes);
        Some(read.map(|()| (stored.info, bytes)))
    };
    let tensors: Vec<_> = names.iter().filter_map(read).collect::<Result<_, Error>>()?;
    Ok(vec![(METADATA, encode(&gguf.metadata, &tensors))])
}

fn text_files(folder: &Path) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let there = TEXT_FILES.iter().copied().filter(|name| folder.join(name).is_file());
    there.map(|name| Ok((name, read_bounded(&folder.join(name), TEXT_BYTES_MAX)?))).collect()
}

/// The tensors of the checkpoint that are not weights of the model.
pub(super) fn unused(source: &Checkpoint) -> Vec<&str> {
    let parts = source.spec().tensors.iter().flat_map(|tensor| &tensor.parts);
    let used: BTreeSet<&str> = parts.map(|part| part.source.as_str()).collect();
    source.weight_map().names().filter(|name| !used.contains(name)).collect()
}
