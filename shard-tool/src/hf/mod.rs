//! Hugging Face folders: `config.json`, and weights in one or several safetensors files.
//!
//! Everything in a file is checked before it is used, and what is read of a file is bounded. The
//! tokenizer, the chat template and the generation settings are not read here. Pickles are never
//! read.

mod config;
mod index;
pub(crate) mod safetensors;
mod text_file;

use std::path::Path;

pub(crate) use config::ConfigJson;
pub(crate) use index::ANOTHER_MODEL;
pub(crate) use text_file::{not_json, read_bounded};

use crate::data_file::DataFile;
use crate::weight_map::WeightMap;
use crate::{DType, Error, ErrorKind};
use safetensors::HeaderFile;

/// The longest `config.json`. The largest published ones have some tens of kilobytes.
const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// The longest index: one line for each of at most a hundred thousand tensors.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// The file of weights where there is one.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// The index that names the files of weights where there are several.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The files of settings, tokenizer and templates that a model may have. They are fetched from the
/// hub and copied beside shards. `vocab.json`, `merges.txt` and `tokenizer.model` are among them
/// for other programs that read such folders.
pub(crate) const TEXT_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// The files among [`TEXT_FILES`] that change answers: a folder that lost one may answer otherwise.
pub(crate) const SERVED_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Reads the settings of the model in a folder; also returns their text.
pub(crate) fn config(folder: &Path) -> Result<(ConfigJson, Vec<u8>), Error> {
    let path = folder.join("config.json");
    if !path.is_file() {
        let error = Error::new(ErrorKind::Format, "it has no config.json").file(folder);
        return Err(error.way_out("give a folder as downloaded from the hub, or a .gguf file"));
    }
    let text = read_bounded(&path, CONFIG_BYTES_MAX)?;
    Ok((ConfigJson::parse(&path, &text)?, text))
}

/// The element type of the weights that the settings name.
pub(crate) fn weights_dtype(config: &ConfigJson) -> Result<DType, Error> {
    let named = config.string("dtype")?.or(config.string("torch_dtype")?);
    match named {
        Some("bfloat16") => Ok(DType::BF16),
        Some("float16") => Ok(DType::F16),
        Some("float32") => Ok(DType::F32),
        Some(other) => {
            let cause = format!("dtype {other:?} is not supported yet");
            let supported = "supported: bfloat16, float16, float32";
            Err(config.error(ErrorKind::Unsupported, cause).way_out(supported))
        }
        // Quantised in a way of its own, a model may leave out what the rest is: BF16.
        None if config.get("quantization_config").is_some() => Ok(DType::BF16),
        None => {
            let cause = "neither dtype nor torch_dtype says how weights are stored";
            Err(config.error(ErrorKind::Format, cause))
        }
    }
}

/// Opens the weights in a folder: one file, or the files that an index names.
pub(crate) fn weights(folder: &Path) -> Result<WeightMap, Error> {
    let mut weight_map = WeightMap::default();
    let single = folder.join(WEIGHTS);
    if single.is_file() {
        add(&mut weight_map, &single)?;
        return Ok(weight_map);
    }
    let path = folder.join(INDEX);
    if !path.is_file() {
        let error = Error::new(ErrorKind::Format, format!("it has neither {WEIGHTS} nor {INDEX}"));
        let way_out = "give a folder with weights as safetensors (pickles are not read)";
        return Err(error.file(folder).way_out(way_out));
    }
    let index = index::WeightIndex::parse(&path, &read_bounded(&path, INDEX_BYTES_MAX)?)?;
    index.check_files(folder)?;
    for file in index.files() {
        add(&mut weight_map, &folder.join(file))?;
    }
    index.check_tensors(&mut weight_map)?;
    Ok(weight_map)
}

/// Lists the files that the index at `path` names, each once.
pub(crate) fn index_files(path: &Path) -> Result<Vec<String>, Error> {
    named_files(path, &read_bounded(path, INDEX_BYTES_MAX)?)
}

/// Lists the files that the text of an index names, each once. `path` is for messages.
pub(crate) fn named_files(path: &Path, text: &[u8]) -> Result<Vec<String>, Error> {
    let index = index::WeightIndex::parse(path, text)?;
    Ok(index.files().map(str::to_owned).collect())
}

/// Whether a folder holds weights as repositories of the hub do.
pub(crate) fn has_weights(folder: &Path) -> bool {
    [WEIGHTS, INDEX].iter().any(|name| folder.join(name).exists())
}

fn add(weight_map: &mut WeightMap, path: &Path) -> Result<(), Error> {
    let file = DataFile::open(path)?;
    let input = HeaderFile { path, reader: &file.file, bytes: file.bytes };
    let header = safetensors::header(&input)?;
    weight_map.add(file, header.digest, header.tensors)
}
