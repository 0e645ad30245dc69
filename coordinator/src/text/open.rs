//! Opens the text files of a model: a GGUF file, or a Hugging Face folder.

use super::error::TextError;
use super::hf;
use super::model::TextModel;
use binfer_shard::Checkpoint;
use std::path::Path;

impl TextModel {
    /// The text model of an opened checkpoint.
    pub fn from_source(source: &Checkpoint) -> Result<Self, TextError> {
        match source.gguf() {
            Some(gguf) => Self::from_gguf(&gguf.metadata),
            None => Self::from_folder(source.path()),
        }
    }

    /// The text model of a Hugging Face folder: tokenizer.json and the files beside it.
    pub fn from_folder(dir: &Path) -> Result<Self, TextError> {
        hf::open(dir)
    }
}
