//! `model.safetensors.index.json`: which file holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::text_file::not_json;
use crate::error::listed;
use crate::weight_map::WeightMap;
use crate::{Error, ErrorKind};

/// The part of an index that is read.
#[derive(Deserialize)]
struct IndexJson {
    weight_map: BTreeMap<String, String>,
}

/// The way out for an index that the files contradict.
pub(crate) const ANOTHER_MODEL: &str = "index and files are of different models: download it again";

/// An index whose file names were checked to be plain names.
pub(super) struct WeightIndex {
    path: PathBuf,
    files: BTreeSet<String>,
    weight_map: BTreeMap<String, String>,
}

impl WeightIndex {
    pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let text: IndexJson =
            serde_json::from_slice(text).map_err(|error| not_json(path, &error))?;
        let weight_map = text.weight_map;
        let files: BTreeSet<String> = weight_map.values().cloned().collect();
        let refuse = |cause: String| Err(Error::new(ErrorKind::Format, cause).file(path));
        if files.is_empty() {
            return refuse("it names no files".to_owned());
        }
        let plain = |name: &str| {
            name.ends_with(".safetensors") && !name.starts_with('.') && !name.contains(['/', '\\'])
        };
        if let Some(name) = files.iter().find(|name| !plain(name)) {
            return refuse(format!("{name:?} is not the name of a safetensors file beside it"));
        }
        Ok(Self { path: path.to_path_buf(), files, weight_map })
    }

    /// The names of the files, each once.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// Refuses a folder that lacks files, and lists them.
    pub(super) fn check_files(&self, folder: &Path) -> Result<(), Error> {
        let missing: Vec<&str> = self.files().filter(|file| !folder.join(file).is_file()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let count = format!("{} of {} files", missing.len(), self.files.len());
        let cause = format!("it names {count} that are missing: {}", listed(&missing));
        let error = Error::new(ErrorKind::Format, cause).file(&self.path);
        Err(error.way_out("download the rest of the model"))
    }

    /// Refuses files whose tensors the index puts into other files. Tensors that no file has are
    /// noted in `weight_map`, since only a model's description tells whether it needs them: a tied
    /// head and rotary frequencies, which follow from others, are often listed and rightly absent.
    pub(super) fn check_tensors(&self, weight_map: &mut WeightMap) -> Result<(), Error> {
        let mut wrong: Vec<String> = Vec::new();
        for (tensor, file) in &self.weight_map {
            let mapped = weight_map.mapped(tensor).and_then(|mapped| mapped.file);
            let holder = mapped.as_ref().map(|holder| holder.path.file_name());
            match holder {
                Some(holder) if holder == Some(file.as_ref()) => {}
                Some(_) => wrong.push(format!("{tensor} in {file}")),
                None => weight_map.promise(tensor, file),
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let cause = format!("tensors are not where it says: {}", listed(&wrong));
        let error = Error::new(ErrorKind::Mismatch, cause).file(&self.path);
        Err(error.way_out(ANOTHER_MODEL))
    }
}
