//! An opened checkpoint: spec, settings, and positional reads of just the slices that are wanted.
//!
//! A GGUF file, whole or in parts, or a Hugging Face folder. Opening reads the headers and checks everything
//! that can be checked without reading weights, so a bad file fails in milliseconds, before memory
//! is taken. Reads take `&self` and share no position: many threads may read at once. No memory
//! map: one would turn a file that is cut while being served into a signal.

use std::io;
use std::path::{Path, PathBuf};

use crate::catalog::{Catalog, DataFile};
use crate::gguf::TensorInfo;
use crate::{Error, ErrorKind, Gguf, LocalPart, ModelSpec, families, gguf, hf, pieces};

/// A checkpoint, open for reading.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    catalog: Catalog,
    /// `None`: a folder.
    gguf: Option<Gguf>,
    spec: ModelSpec,
    digest: u64,
}

impl Source {
    /// Opens and checks a checkpoint: a `.gguf` file, or any part of a split one, or a Hugging Face
    /// folder.
    ///
    /// # Errors
    /// Every kind but `Layout`: no such file, not a model, truncated, not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if path.is_dir() { Self::open_folder(path) } else { Self::open_gguf(path) }
    }

    fn open_gguf(path: &Path) -> Result<Self, Error> {
        let (gguf, catalog) = gguf::split::open(path)?;
        let spec = families::of_gguf(&gguf, &catalog, path)?;
        let digest = catalog.digest(&[])?;
        Ok(Self { path: path.to_path_buf(), catalog, gguf: Some(gguf), spec, digest })
    }

    fn open_folder(path: &Path) -> Result<Self, Error> {
        let (config, text) = hf::config(path)?;
        let family = families::of_class(&config)?;
        let catalog = hf::weights(path)?;
        let spec = families::of_config(family, &config, &catalog)?;
        let digest = catalog.digest(&text)?;
        Ok(Self { path: path.to_path_buf(), catalog, gguf: None, spec, digest })
    }

    /// What the model is made of.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Header of the GGUF file: the tokenizer is in its metadata. `None` for a folder.
    #[must_use]
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_ref()
    }

    /// The Hugging Face folder: the tokenizer is in its files. `None` for a GGUF file.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.gguf.is_none().then_some(&self.path)
    }

    /// As given to [`Self::open`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether two processes opened the same checkpoint: XXH3-64 over `config.json`, whole
    /// headers, lengths of files, and 4 KiB out of each of 16 tensors. Not a checksum of all
    /// weights, which would cost a pass over them; two trainings of one model differ in every
    /// tensor.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Reads a rank's share of a tensor, packed, into `out` of exactly [`LocalPart::bytes`].
    ///
    /// # Errors
    /// `Io` or `Truncated` when the file changed since it was opened; `Mismatch` when the part is
    /// not one of this checkpoint or `out` has another length.
    pub fn read_into(&self, part: &LocalPart, out: &mut [u8]) -> Result<(), Error> {
        let (file, tensor) = self.check_part(part, out.len())?;
        pieces::read(&file.file, tensor.offset, &part.ranges, out)
            .map_err(|(at, error)| read_error(file, &error).tensor(&tensor.name).at(at))
    }

    /// The tensor that `part` is cut from, if part, file and buffer agree.
    fn check_part(
        &self,
        part: &LocalPart,
        out_bytes: usize,
    ) -> Result<(&DataFile, &TensorInfo), Error> {
        let refuse = |cause: String| {
            Error::new(ErrorKind::Mismatch, cause).file(&self.path).tensor(&part.source)
        };
        let place = self.catalog.place(&part.source);
        let (file, tensor) = place.ok_or_else(|| refuse("no such tensor".to_owned()))?;
        let ranges = &part.ranges;
        let within =
            |range: &std::ops::Range<u64>| range.start <= range.end && range.end <= tensor.bytes;
        if part.dtype != tensor.dtype || !ranges.iter().all(within) {
            return Err(refuse("the slice was made for another checkpoint".to_owned()));
        }
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        if bytes != out_bytes as u64 {
            return Err(refuse(format!("a slice of {bytes} bytes into {out_bytes}")));
        }
        Ok((file, tensor))
    }
}

fn read_error(file: &DataFile, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        let cause = "the file became shorter while it was read";
        return Error::new(ErrorKind::Truncated, cause).file(&file.path);
    }
    Error::io(&file.path, "read weights", error)
}
