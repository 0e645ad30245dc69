//! The map from the names of a checkpoint's tensors to files, places, types and shapes.
//!
//! The reader of each container fills it in. Describing the model, reading weights and the digest
//! work on the map, whatever the container is.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::data_file::{DataFile, MappedTensor};
use crate::views::{Pick, RowSource, View};
use crate::{DType, Error, ErrorKind, StoredTensor};

/// The most tensors that the digest samples. Only giant models have more, so two trainings of one
/// model have different digests even where only some layers were trained.
const SAMPLES_MAX: usize = 2048;
/// The most bytes that the digest samples of a tensor.
const SAMPLE_BYTES_MAX: usize = 4096;
/// The most layers of a model whose tensors are assumed to exist. Every model has fewer.
const ASSUMED_MAX: usize = 1 << 16;

/// Where the bytes of a tensor come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TensorData<'m> {
    /// A place in a file.
    Stored(&'m MappedTensor),
    /// They are computed out of other tensors.
    Computed(&'m View),
}

impl<'m> TensorData<'m> {
    pub(crate) fn info(self) -> &'m StoredTensor {
        match self {
            Self::Stored(stored) => &stored.info,
            Self::Computed(view) => &view.info,
        }
    }
}

/// A matrix that is offered in the place of stored tensors.
#[derive(Debug)]
enum Offered {
    /// Rows of a stored tensor, one after the other.
    Rows(MappedTensor),
    Computed(Box<View>),
}

/// All tensors of a checkpoint, by name, with the files that hold them.
#[derive(Debug, Default)]
pub(crate) struct WeightMap {
    files: Vec<Arc<DataFile>>,
    /// As they are stored.
    tensors: BTreeMap<String, MappedTensor>,
    /// What is offered instead of some of them.
    views: BTreeMap<String, Offered>,
    /// The stored tensors that views are made of.
    hidden: BTreeSet<String>,
    /// The digest of each file's header.
    header_digests: Vec<u64>,
    /// The tensors that an index puts into a file that lacks them, and that file.
    promised: BTreeMap<String, String>,
    /// The type of tensors that are not quantised, where there are no headers and all tensors are
    /// assumed to exist.
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
        let file = Arc::new(file);
        for info in tensors {
            let (name, place) = (info.name.clone(), info.offset);
            let mapped = MappedTensor { file: Some(Arc::clone(&file)), info };
            if let Some(other) = self.tensors.insert(name.clone(), mapped) {
                let other = other.file.unwrap_or_else(|| Arc::clone(&file));
                let cause = format!("{} has a tensor of this name too", other.path.display());
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
        self.files.iter().map(Arc::as_ref).zip(self.header_digests.iter().copied())
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.data(name).map(TensorData::info)
    }

    /// A tensor that is offered.
    pub(crate) fn data(&self, name: &str) -> Option<TensorData<'_>> {
        match self.views.get(name) {
            Some(Offered::Rows(stored)) => Some(TensorData::Stored(stored)),
            Some(Offered::Computed(view)) => Some(TensorData::Computed(view)),
            None if self.hidden.contains(name) => None,
            None => self.tensors.get(name).map(TensorData::Stored),
        }
    }

    /// A tensor as it is stored, also where views are offered instead.
    pub(crate) fn stored(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name).map(|stored| &stored.info)
    }

    /// A tensor that is stored and offered, for a view of it.
    pub(crate) fn mapped(&self, name: &str) -> Option<MappedTensor> {
        if self.hidden.contains(name) { None } else { self.tensors.get(name).cloned() }
    }

    /// The rows of a tensor that is offered, for views of them.
    pub(crate) fn row_source(&self, name: &str) -> Option<RowSource> {
        match self.data(name)? {
            TensorData::Stored(stored) => Some(RowSource::Stored(stored.clone())),
            TensorData::Computed(view) => view.whole_source().cloned(),
        }
    }

    /// Offers `source`, joined out of several tensors, as the tensor `name`.
    pub(crate) fn join(&mut self, name: &str, source: RowSource) -> Result<(), Error> {
        let (rows, cols) = (source.rows(), source.cols());
        let view = View::new(name.to_owned(), source.clone(), Pick::WHOLE, [rows, cols])?;
        self.split(name, &source, vec![view])
    }

    /// Offers `views` of `source` in the place of the tensor `name`. Together they must have each
    /// of its elements once; refuses as many more or fewer.
    pub(crate) fn split(
        &mut self,
        name: &str,
        source: &RowSource,
        views: Vec<View>,
    ) -> Result<(), Error> {
        let used = views.iter().map(View::elements).fold(0, u64::saturating_add);
        let elements = source.rows().saturating_mul(source.cols());
        if used != elements {
            let cause = format!("{used} of its {elements} elements have a use");
            return Err(Error::new(ErrorKind::Mismatch, cause).tensor(name));
        }
        self.views.remove(name);
        self.hidden.extend(source.names().map(str::to_owned));
        for view in views {
            let name = view.info.name.clone();
            let stored = view.as_stored().map(Offered::Rows);
            let offered = stored.unwrap_or_else(|| Offered::Computed(Box::new(view)));
            if self.views.insert(name.clone(), offered).is_some()
                || (self.tensors.contains_key(&name) && !self.hidden.contains(&name))
            {
                let cause = "it is stored by itself, and as a part of another tensor";
                return Err(Error::new(ErrorKind::Format, cause).tensor(&name));
            }
        }
        Ok(())
    }

    /// The names of all tensors that are offered.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let stored = self.tensors.keys().filter(|name| !self.hidden.contains(*name));
        stored
            .filter(|name| !self.views.contains_key(*name))
            .chain(self.views.keys())
            .map(String::as_str)
    }

    /// The names of stored tensors that views are offered instead of.
    pub(crate) fn hidden(&self) -> impl Iterator<Item = &str> {
        self.hidden.iter().map(String::as_str)
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
        let sampled = self.tensors.values().step_by(self.len().div_ceil(SAMPLES_MAX).max(1));
        for MappedTensor { file, info: tensor } in sampled {
            let Some(file) = file else { continue };
            let bytes = usize::try_from(tensor.bytes).unwrap_or(usize::MAX).min(SAMPLE_BYTES_MAX);
            let middle = tensor.offset + (tensor.bytes - bytes as u64) / 2;
            file.file.read_exact_at(&mut sample[..bytes], middle).map_err(|error| {
                Error::io(&file.path, "read weights", &error).tensor(&tensor.name)
            })?;
            hash.update(&sample[..bytes]);
        }
        Ok(hash.digest())
    }
}
