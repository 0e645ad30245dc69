//! Hugging Face folders: `config.json`, and weights in one or several safetensors files.
//!
//! Nothing in a file is believed before it is checked, and every file has a bound on what is read
//! of it. Text files (tokenizer, chat template, generation settings) are not read here; pickles are
//! never read.

mod config;
mod index;
pub(crate) mod safetensors;

use std::io::Read;
use std::path::Path;

pub(crate) use config::ConfigJson;
pub(crate) use index::ANOTHER_MODEL;

use crate::files::open_within;
use crate::weight_map::{DataFile, WeightMap};
use crate::{DType, Error, ErrorKind};
use safetensors::HeaderFile;

/// Longest `config.json`: the largest published ones have some tens of kilobytes.
const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// Longest index: a line a tensor, a hundred thousand of them at most.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// Weights in one file.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// Names the files of weights where there are several.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Settings, tokenizer and templates, as far as a model has them: what is fetched from the hub, and
/// what goes along with shards. `vocab.json`, `merges.txt` and `tokenizer.model` are there for other
/// programs that read such folders.
pub(crate) const TEXTS: &[&str] = &[
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

/// Those of [`TEXTS`] that decide what is served: a folder that lacks one may answer otherwise.
pub(crate) const SERVED: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// The settings of the model in a folder, and their text.
pub(crate) fn config(folder: &Path) -> Result<(ConfigJson, Vec<u8>), Error> {
    let path = folder.join("config.json");
    if !path.is_file() {
        let error = Error::new(ErrorKind::Format, "it has no config.json").file(folder);
        return Err(error.way_out("give a folder as downloaded from the hub, or a .gguf file"));
    }
    let text = bounded(&path, CONFIG_BYTES_MAX)?;
    Ok((ConfigJson::parse(&path, &text)?, text))
}

/// The type of the weights, as the settings say it.
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
        None => {
            let cause = "neither dtype nor torch_dtype says how weights are stored";
            Err(config.error(ErrorKind::Format, cause))
        }
    }
}

/// The weights in a folder: one file, or those that an index names.
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
    let index = index::WeightIndex::parse(&path, &bounded(&path, INDEX_BYTES_MAX)?)?;
    index.check_files(folder)?;
    for file in index.files() {
        add(&mut weight_map, &folder.join(file))?;
    }
    index.check_tensors(&mut weight_map)?;
    Ok(weight_map)
}

/// Names of the files that an index at `path` names, each once.
pub(crate) fn index_files(path: &Path) -> Result<Vec<String>, Error> {
    named_files(path, &bounded(path, INDEX_BYTES_MAX)?)
}

/// Names of the files that the text of an index names, each once; `path` is for messages.
pub(crate) fn named_files(path: &Path, text: &[u8]) -> Result<Vec<String>, Error> {
    let index = index::WeightIndex::parse(path, text)?;
    Ok(index.files().map(str::to_owned).collect())
}

/// Whether a folder has weights as the hub has them.
pub(crate) fn has_weights(folder: &Path) -> bool {
    [WEIGHTS, INDEX].iter().any(|name| folder.join(name).exists())
}

fn add(weight_map: &mut WeightMap, path: &Path) -> Result<(), Error> {
    let file = DataFile::open(path)?;
    let input = HeaderFile { path, reader: &file.file, bytes: file.bytes };
    let header = safetensors::header(&input)?;
    weight_map.add(file, header.digest, header.tensors)
}

/// A whole small file.
pub(crate) fn bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Error> {
    let failed = |error: std::io::Error| Error::io(path, "read", &error);
    let mut text = Vec::new();
    let file = open_within(path).map_err(failed)?;
    file.take(bytes_max + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > bytes_max {
        let cause = format!("it is longer than {bytes_max} bytes");
        return Err(Error::new(ErrorKind::Format, cause).file(path));
    }
    Ok(text)
}

/// What the parser says of a file that is not JSON.
pub(crate) fn not_json(path: &Path, error: &serde_json::Error) -> Error {
    let error = Error::new(ErrorKind::Format, format!("not as it should be: {error}")).file(path);
    error.way_out("download it again")
}
