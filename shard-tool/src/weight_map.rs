//! Where a checkpoint's tensors lie: in which file, at which byte, of which type and shape.
//!
//! Every container fills one in; binding, reading and the digest know nothing of containers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::files::open_within;
use crate::gguf::StoredTensor;
use crate::{DType, Error, ErrorKind};

/// How many tensors the digest looks into, and how far: into all but those of giant models, so that
/// two trainings of one model differ even where only some layers were trained.
const SAMPLES_MAX: usize = 2048;
const SAMPLE_BYTES_MAX: usize = 4096;
/// Tensors that a model may want of a catalog that has none; more than any model has layers.
const ASSUMED_MAX: usize = 1 << 16;

/// A file of weights, open for reading.
#[derive(Debug)]
pub(crate) struct DataFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) bytes: u64,
}

impl DataFile {
    /// Opens a file of a model's folder: see [`open_within`].
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Self::opened(path, open_within(path))
    }

    /// Opens a file that the user named: it may be a link.
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

#[derive(Debug)]
struct MappedTensor {
    /// `None`: only described, its data are not here.
    file: Option<usize>,
    info: StoredTensor,
}

/// All tensors of a checkpoint, by name, with the files that hold them.
#[derive(Debug, Default)]
pub(crate) struct WeightMap {
    files: Vec<DataFile>,
    tensors: BTreeMap<String, MappedTensor>,
    /// Of each file the digest of its header.
    header_digests: Vec<u64>,
    /// Tensors that an index puts into a file that lacks them: name and file.
    promised: BTreeMap<String, String>,
    /// No headers are here: whatever tensor a model wants is taken to be there, of this type.
    assumed: Option<DType>,
}

impl WeightMap {
    /// The catalog of a checkpoint that is not here, with weights of that type.
    pub(crate) fn assumed(dtype: DType) -> Self {
        Self { assumed: Some(dtype), ..Self::default() }
    }

    /// The type of tensors that are taken to be there.
    pub(crate) fn assumed_dtype(&self) -> Option<DType> {
        self.assumed
    }

    /// Whether it may have so many tensors.
    pub(crate) fn may_hold(&self, count: usize) -> bool {
        count <= self.assumed.map_or(self.len(), |_| ASSUMED_MAX)
    }

    /// Adds a file and what its header, of that digest, says it holds.
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

    /// Adds a tensor whose data are not here.
    pub(crate) fn describe(&mut self, info: StoredTensor) {
        self.tensors.insert(info.name.clone(), MappedTensor { file: None, info });
    }

    /// Notes that an index puts a tensor into a file which lacks it.
    pub(crate) fn promise(&mut self, name: &str, file: &str) {
        self.promised.insert(name.to_owned(), file.to_owned());
    }

    /// The file that should have a tensor by the index, and has not.
    pub(crate) fn promised(&self, name: &str) -> Option<&str> {
        self.promised.get(name).map(String::as_str)
    }

    /// The files, each with the digest of its header.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&DataFile, u64)> {
        self.files.iter().zip(self.header_digests.iter().copied())
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name).map(|stored| &stored.info)
    }

    /// A tensor and the file it lies in.
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

    /// XXH3-64 over `settings`, all headers, lengths, and 4 KiB out of each tensor.
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
