//! The map from the names of a checkpoint's tensors to files, places, types and shapes.
//!
//! The reader of each container fills it in. Describing the model, reading weights and the digest
//! work on the map, whatever the container is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::files::open_within;
use crate::{DType, Error, ErrorKind, StoredTensor};

/// The most tensors that the digest samples. Only giant models have more, so two trainings of one
/// model have different digests even where only some layers were trained.
const SAMPLES_MAX: usize = 2048;
/// The most bytes that the digest samples of a tensor.
const SAMPLE_BYTES_MAX: usize = 4096;
/// The most layers of a model whose tensors are assumed to exist. Every model has fewer.
const ASSUMED_MAX: usize = 1 << 16;

/// A file of weights, open for reading.
#[derive(Debug)]
pub(crate) struct DataFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) bytes: u64,
}

impl DataFile {
    /// Opens a file of a model's folder, as [`open_within`] does.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Self::opened(path, open_within(path))
    }

    /// Opens a file that the user named. It may be a link to any file.
    pub(crate) fn open_named(path: &Path) -> Result<Self, Error> {
        let target = std::fs::canonicalize(path);
        Self::opened(path, target.and_then(|target| open_within(&target)))
    }

    fn opened(path: &Path, file: io::Result<File>) -> Result<Self, Error> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidInput => {
                Error::new(ErrorKind::Unsupported, error.to_string()).file(path)
            }
            _ => Error::io(path, "open", &error),
        };
        let file = file.map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Self { path: path.to_path_buf(), file, bytes })
    }
}

/// A tensor of the map.
#[derive(Debug)]
struct MappedTensor {
    /// The index of its file. `None` if the tensor is described, but its data are not here.
    file: Option<usize>,
    info: StoredTensor,
}

/// All tensors of a checkpoint, by name, with the files that hold them.
#[derive(Debug, Default)]
pub(crate) struct WeightMap {
    files: Vec<DataFile>,
    tensors: BTreeMap<String, MappedTensor>,
    /// The digest of each file's header.
    header_digests: Vec<u64>,
    /// The tensors that an index puts into a file that lacks them, and that file.
    promised: BTreeMap<String, String>,
    /// The type of every tensor, where there are no headers and all tensors are assumed to exist.
    assumed: Option<DType>,
}

impl WeightMap {
    /// The map of a checkpoint without headers: every tensor is assumed to exist, with that type.
    pub(crate) fn assumed(dtype: DType) -> Self {
        Self { assumed: Some(dtype), ..Self::default() }
    }

    /// The type of the tensors that are assumed to exist, if there are no headers.
    pub(crate) fn assumed_dtype(&self) -> Option<DType> {
        self.assumed
    }

    /// Whether the map may hold `count` tensors.
    pub(crate) fn may_hold(&self, count: usize) -> bool {
        count <= self.assumed.map_or(self.len(), |_| ASSUMED_MAX)
    }

    /// Adds a file and the tensors of its header. Refuses a name that the map has already.
    pub(crate) fn add(
        &mut self,
        file: DataFile,
        header_digest: u64,
        tensors: impl IntoIterator<Item = StoredTensor>,
    ) -> Result<(), Error> {
        let index = self.files.len();
        for info in tensors {
            let (name, place) = (info.name.clone(), info.offset);
            if let Some(other) =
                self.tensors.insert(name.clone(), MappedTensor { file: Some(index), info })
            {
                let other = other.file.and_then(|other| self.files.get(other));
                let other = other.unwrap_or(&file).path.display();
                let cause = format!("{other} has a tensor of this name too");
                let error = Error::new(ErrorKind::Format, cause).file(&file.path);
                return Err(error.tensor(&name).at(place));
            }
        }
        self.header_digests.push(header_digest);
        self.files.push(file);
        Ok(())
    }

    /// Adds a tensor whose data are not here. Refuses a name that the map has already.
    pub(crate) fn describe(&mut self, info: StoredTensor) -> Result<(), Error> {
        let name = info.name.clone();
        match self.tensors.insert(name.clone(), MappedTensor { file: None, info }) {
            None => Ok(()),
            Some(_) => {
                let cause = "there are two tensors of this name";
                Err(Error::new(ErrorKind::Format, cause).tensor(&name))
            }
        }
    }

    /// Notes that an index puts a tensor into a file that lacks it.
    pub(crate) fn promise(&mut self, name: &str, file: &str) {
        self.promised.insert(name.to_owned(), file.to_owned());
    }

    /// The file that should hold a tensor by the index, but does not.
    pub(crate) fn promised(&self, name: &str) -> Option<&str> {
        self.promised.get(name).map(String::as_str)
    }

    /// All files, each with the digest of its header.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&DataFile, u64)> {
        self.files.iter().zip(self.header_digests.iter().copied())
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name).map(|stored| &stored.info)
    }

    /// A tensor and the file that holds it.
    pub(crate) fn locate(&self, name: &str) -> Option<(&DataFile, &StoredTensor)> {
        let stored = self.tensors.get(name)?;
        Some((self.files.get(stored.file?)?, &stored.info))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn len(&self) -> usize {
        self.tensors.len()
    }

    /// XXH3-64 over `settings`, and over the header, length and a sample of each tensor of all
    /// files.
    pub(crate) fn digest(&self, settings: &[u8]) -> Result<u64, Error> {
        let mut hash = Xxh3::new();
        for (file, header_digest) in self.files() {
            hash.update(&header_digest.to_le_bytes());
            hash.update(&file.bytes.to_le_bytes());
        }
        hash.update(settings);
        let mut sample = [0; SAMPLE_BYTES_MAX];
        for name in self.names().step_by(self.len().div_ceil(SAMPLES_MAX).max(1)) {
            let Some((file, tensor)) = self.locate(name) else { continue };
            let bytes = usize::try_from(tensor.bytes).unwrap_or(usize::MAX).min(SAMPLE_BYTES_MAX);
            let middle = tensor.offset + (tensor.bytes - bytes as u64) / 2;
            file.file
                .read_exact_at(&mut sample[..bytes], middle)
                .map_err(|error| Error::io(&file.path, "read weights", &error).tensor(name))?;
            hash.update(&sample[..bytes]);
        }
        Ok(hash.digest())
    }
}
