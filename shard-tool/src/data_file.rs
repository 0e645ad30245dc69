//! Files of weights, and tensors at their places in them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::open_within;
use crate::ranged_read::read_ranges;
use crate::{Error, ErrorKind, StoredTensor};

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

/// A tensor, and the file that holds it.
#[derive(Clone, Debug)]
pub(crate) struct MappedTensor {
    /// `None` if the tensor is described, but its data are not here.
    pub(crate) file: Option<Arc<DataFile>>,
    pub(crate) info: StoredTensor,
}

impl MappedTensor {
    /// Reads byte ranges of the tensor, one after the other, into `out`, which has the length of
    /// all of them.
    pub(crate) fn read(&self, ranges: &[Range<u64>], out: &mut [u8]) -> Result<(), Error> {
        let Some(file) = &self.file else {
            let cause = "its data are not here";
            return Err(Error::new(ErrorKind::Mismatch, cause).tensor(&self.info.name));
        };
        read_ranges(&file.file, self.info.offset, ranges, out).map_err(|(at, error)| {
            let error = if error.kind() == io::ErrorKind::UnexpectedEof {
                let cause = "the file became shorter while it was read";
                Error::new(ErrorKind::Truncated, cause).file(&file.path)
            } else {
                Error::io(&file.path, "read weights", &error)
            };
            error.tensor(&self.info.name).at(at)
        })
    }
}
