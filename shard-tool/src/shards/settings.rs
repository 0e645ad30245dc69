//! What a folder of shards holds besides weights: all that serving needs, so that the checkpoint
//! may go.
//!
//! Of a Hugging Face folder its text files; of a GGUF file its metadata (tokenizer,
//! chat template, hyperparameters), as a GGUF file without weights.

use std::collections::BTreeSet;
use std::path::Path;

use crate::gguf::{Gguf, encode};
use crate::hf::{TEXTS, bounded};
use crate::ranged_read::read_ranges;
use crate::weight_map::{DataFile, WeightMap};
use crate::{Checkpoint, Error};

/// The metadata of a GGUF file.
pub(super) const METADATA: &str = "metadata.gguf";

/// Longer than any that the readers take.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// The settings' files: name and content.
pub(super) fn contents(source: &Checkpoint) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let Some(gguf) = source.gguf() else {
        return text_files(source.path());
    };
    let weight_map = source.weight_map();
    let names = unused(source);
    let read = |name: &&str| {
        let (file, info) = weight_map.locate(name)?;
        let mut bytes = vec![0; usize::try_from(info.bytes).ok()?];
        let whole = 0..info.bytes;
        let read = read_ranges(&file.file, info.offset, std::slice::from_ref(&whole), &mut bytes);
        let failed = |(_, error)| Error::io(&file.path, "read weights", &error).tensor(name);
        Some(read.map_err(failed).map(|()| (info, bytes)))
    };
    let tensors: Vec<_> = names.iter().filter_map(read).collect::<Result<_, Error>>()?;
    Ok(vec![(METADATA, encode(&gguf.metadata, &tensors))])
}

fn text_files(folder: &Path) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let there = TEXTS.iter().copied().filter(|name| folder.join(name).is_file());
    there.map(|name| Ok((name, bounded(&folder.join(name), TEXT_BYTES_MAX)?))).collect()
}

/// Tensors of the checkpoint that are no weights of the model.
pub(super) fn unused(source: &Checkpoint) -> Vec<&str> {
    let parts = source.spec().tensors.iter().flat_map(|tensor| &tensor.parts);
    let used: BTreeSet<&str> = parts.map(|part| part.source.as_str()).collect();
    source.weight_map().names().filter(|name| !used.contains(name)).collect()
}

/// Opens the metadata of a GGUF file, if the folder has them, and adds their tensors to `weight_map`.
pub(super) fn metadata(folder: &Path, weight_map: &mut WeightMap) -> Result<Option<Gguf>, Error> {
    let path = folder.join(METADATA);
    if !path.is_file() {
        return Ok(None);
    }
    let file = DataFile::open(&path)?;
    let gguf = Gguf::read(&file.file, &path, file.bytes)?;
    weight_map.add(file, gguf.header_digest(), gguf.tensors().cloned())?;
    Ok(Some(gguf))
}
