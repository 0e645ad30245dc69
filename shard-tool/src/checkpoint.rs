//! An opened checkpoint: its description, its settings, and positional reads of slices.
//!
//! A checkpoint is a GGUF file, whole or in parts, a Hugging Face folder, or a folder of shards.
//! Opening reads the headers and checks all that can be checked without reading weights, so a bad
//! file fails within milliseconds, before memory is taken. Reads share no position, so many threads
//! may read at once. Files are not mapped into memory: one that is cut while it is mapped would end
//! the process by a signal.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::families::Described;
use crate::shards::format::{is_shards, part_name};
use crate::shards::open::{self, OpenedShards, Shards};
use crate::weight_map::{TensorData, WeightMap};
use crate::{
    Error, ErrorKind, Gguf, LocalPart, LocalTensor, ModelSpec, PartReader, RankLayout, families,
    gguf, hf, slice,
};

/// A checkpoint, open for reading.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    weight_map: WeightMap,
    container: Container,
    spec: ModelSpec,
    notes: Vec<String>,
    digest: u64,
}

/// The container that holds the tensors.
#[derive(Debug)]
enum Container {
    Gguf(Gguf),
    Folder,
    Shards(Shards),
    /// None: the model is only described.
    Absent,
}

impl Checkpoint {
    /// Opens and checks a checkpoint: a `.gguf` file, any part of a split model, a Hugging Face
    /// folder, or a folder of shards.
    ///
    /// # Errors
    /// Errors of every kind but `Layout`: no such file, not a model, truncated, not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if !path.is_dir() {
            Self::open_gguf(path)
        } else if is_shards(path) {
            Self::open_shards(path)
        } else {
            Self::open_folder(path)
        }
    }

    /// Describes a model of which only `config.json` is there. Its weights cannot be read.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn assumed(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_path_buf();
        let (config, text) = hf::config(&path)?;
        // An unknown family is refused before an unknown type of its weights.
        let family = families::of_class(&config)?;
        let mut weight_map = WeightMap::assumed(hf::weights_dtype(&config)?);
        let Described { spec, notes } = families::of_config(family, &config, &mut weight_map)?;
        Ok(Self {
            path,
            weight_map,
            container: Container::Absent,
            spec,
            notes,
            digest: xxh3_64(&text),
        })
    }

    fn open_gguf(path: &Path) -> Result<Self, Error> {
        let (gguf, mut weight_map) = gguf::split::open(path)?;
        let Described { spec, notes } = families::of_gguf(&gguf, &mut weight_map, path)?;
        Ok(Self {
            path: path.to_path_buf(),
            digest: weight_map.digest(&[])?,
            weight_map,
            container: Container::Gguf(gguf),
            spec,
            notes,
        })
    }

    fn open_folder(path: &Path) -> Result<Self, Error> {
        let (config, text) = hf::config(path)?;
        let family = families::of_class(&config)?;
        let mut weight_map = hf::weights(path)?;
        let Described { spec, notes } = families::of_config(family, &config, &mut weight_map)?;
        Ok(Self {
            path: path.to_path_buf(),
            digest: weight_map.digest(&text)?,
            weight_map,
            container: Container::Folder,
            spec,
            notes,
        })
    }

    fn open_shards(path: &Path) -> Result<Self, Error> {
        let OpenedShards { weight_map, described, digest, shards } = open::open(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            weight_map,
            container: Container::Shards(shards),
            spec: described.spec,
            notes: described.notes,
            digest,
        })
    }

    /// The description of the model.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Lines for the user about the settings, such as those that were ignored.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The header of the GGUF file, or of the GGUF file that shards were cut from. Its metadata
    /// hold the tokenizer. `None` if the tokenizer is in the files of [`Self::folder`].
    #[must_use]
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.container {
            Container::Gguf(gguf) => Some(gguf),
            Container::Folder | Container::Absent => None,
            Container::Shards(shards) => shards.gguf.as_ref(),
        }
    }

    /// The folder whose files hold the tokenizer. `None` if it is in the metadata of
    /// [`Self::gguf`].
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.gguf().is_none().then_some(&self.path)
    }

    /// The number of ranks that the shards are for. `None` for other checkpoints, which serve any.
    #[must_use]
    pub fn shards_world(&self) -> Option<u32> {
        self.shards().map(|shards| shards.world)
    }

    /// The [`Self::digest`] of the checkpoint that the shards were cut from. `None` if it has none.
    #[must_use]
    pub fn shards_source_digest(&self) -> Option<u64> {
        self.shards().map(|shards| shards.source_digest)
    }

    fn shards(&self) -> Option<&Shards> {
        match &self.container {
            Container::Shards(shards) => Some(shards),
            Container::Gguf(_) | Container::Folder | Container::Absent => None,
        }
    }

    pub(crate) fn weight_map(&self) -> &WeightMap {
        &self.weight_map
    }

    /// What the rank of `layout` loads, in load order: slices of a checkpoint's tensors, or whole
    /// parts of the rank's shard.
    ///
    /// # Errors
    /// `Layout` if the layout is not for this model, or if the shards are for another number of
    /// ranks.
    pub fn local_tensors(&self, layout: &RankLayout) -> Result<Vec<LocalTensor>, Error> {
        let mut tensors = slice::local_tensors(&self.spec, layout)?;
        let Some(shards) = self.shards() else { return Ok(tensors) };
        if layout.world != shards.world {
            let cause = format!("shards for {} ranks, not for {}", shards.world, layout.world);
            return Err(Error::new(ErrorKind::Layout, cause).file(&self.path));
        }
        for part in tensors.iter_mut().flat_map(|tensor| &mut tensor.parts) {
            part.source = part_name(&part.source, layout.rank);
            *part = part.clone().packed();
        }
        Ok(tensors)
    }

    /// The path that was given to [`Self::open`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether two processes opened the same checkpoint. It is the XXH3-64 of `config.json`,
    /// whole headers, lengths of files, and 4 KiB of each tensor, since a checksum of all weights
    /// would cost a pass over them. For shards it covers settings and manifest, which has
    /// checksums.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Reads a rank's slice of a tensor, packed, into `out` of exactly [`LocalPart::bytes`].
    ///
    /// # Errors
    /// `Io` or `Truncated` if the file changed since it was opened. `Mismatch` if the part is not
    /// one of this checkpoint, if `out` has another length, or if a shard's bytes are not those
    /// that were written.
    pub fn read_into(&self, part: &LocalPart, out: &mut [u8]) -> Result<(), Error> {
        self.part_reader(part, out.len() as u64)?.fill(out)
    }

    /// A reader of a rank's slice of a tensor, packed.
    ///
    /// # Errors
    /// `Mismatch` if the part is not one of this checkpoint.
    pub fn reader(&self, part: &LocalPart) -> Result<PartReader<'_>, Error> {
        self.part_reader(part, part.bytes())
    }

    fn part_reader(&self, part: &LocalPart, bytes: u64) -> Result<PartReader<'_>, Error> {
        let data = self.check_part(part, bytes)?;
        let digest = self.shards().and_then(|shards| shards.digests.get(&data.info().name));
        Ok(PartReader::new(data, &part.ranges, digest.copied()))
    }

    /// The tensor that `part` is cut from, after checking that part and buffer fit them.
    fn check_part(&self, part: &LocalPart, out_bytes: u64) -> Result<TensorData<'_>, Error> {
        let refuse = |cause: String| {
            Error::new(ErrorKind::Mismatch, cause).file(&self.path).tensor(&part.source)
        };
        let data = self.weight_map.data(&part.source);
        let data = data.ok_or_else(|| refuse("no such tensor".to_owned()))?;
        let tensor = data.info();
        let ranges = &part.ranges;
        let within =
            |range: &std::ops::Range<u64>| range.start <= range.end && range.end <= tensor.bytes;
        if part.dtype != tensor.dtype || !ranges.iter().all(within) {
            return Err(refuse("the slice was made for another checkpoint".to_owned()));
        }
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        if bytes != out_bytes {
            return Err(refuse(format!("a slice of {bytes} bytes into {out_bytes}")));
        }
        Ok(data)
    }
}
