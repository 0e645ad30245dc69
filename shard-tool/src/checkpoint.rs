//! An opened checkpoint: spec, settings, and positional reads of just the slices that are wanted.
//!
//! A GGUF file, whole or in parts, a Hugging Face folder, or a folder of shards. Opening reads the
//! headers and checks everything that can be checked without reading weights, so a bad file fails
//! in milliseconds, before memory is taken. Reads take `&self` and share no position: many threads
//! may read at once. No memory map: one would turn a file that is cut while being served into a
//! signal.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::families::Described;
use crate::gguf::StoredTensor;
use crate::shards::open::{self, Shards, part_name};
use crate::weight_map::{DataFile, WeightMap};
use crate::{
    Error, ErrorKind, Gguf, LocalPart, LocalTensor, ModelSpec, PartReader, RankLayout, families,
    gguf, hf, shards, slice,
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

/// What the tensors came in.
#[derive(Debug)]
enum Container {
    Gguf(Gguf),
    Folder,
    Shards(Shards),
    /// Nothing: only described.
    Absent,
}

impl Checkpoint {
    /// Opens and checks a checkpoint: a `.gguf` file, or any part of a split one, a Hugging Face
    /// folder, or one of shards.
    ///
    /// # Errors
    /// Every kind but `Layout`: no such file, not a model, truncated, not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if !path.is_dir() {
            Self::open_gguf(path)
        } else if shards::is_shards(path) {
            Self::open_shards(path)
        } else {
            Self::open_folder(path)
        }
    }

    /// A model of which only `config.json` is there, for measurements: its weights cannot be read.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn assumed(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_path_buf();
        let (config, text) = hf::config(&path)?;
        // First: how weights of a family that is not known are stored does not matter.
        let family = families::of_class(&config)?;
        let weight_map = WeightMap::assumed(hf::weights_dtype(&config)?);
        let Described { spec, notes } = families::of_config(family, &config, &weight_map)?;
        let (container, digest) = (Container::Absent, xxh3_64(&text));
        Ok(Self { path, weight_map, container, spec, notes, digest })
    }

    fn open_gguf(path: &Path) -> Result<Self, Error> {
        let (gguf, weight_map) = gguf::split::open(path)?;
        let Described { spec, notes } = families::of_gguf(&gguf, &weight_map, path)?;
        let (path, digest) = (path.to_path_buf(), weight_map.digest(&[])?);
        Ok(Self { path, weight_map, container: Container::Gguf(gguf), spec, notes, digest })
    }

    fn open_folder(path: &Path) -> Result<Self, Error> {
        let (config, text) = hf::config(path)?;
        let family = families::of_class(&config)?;
        let weight_map = hf::weights(path)?;
        let Described { spec, notes } = families::of_config(family, &config, &weight_map)?;
        let (path, digest) = (path.to_path_buf(), weight_map.digest(&text)?);
        Ok(Self { path, weight_map, container: Container::Folder, spec, notes, digest })
    }

    fn open_shards(path: &Path) -> Result<Self, Error> {
        let open::OpenedShards { weight_map, described, digest, shards } = open::open(path)?;
        let Described { spec, notes } = described;
        let (path, container) = (path.to_path_buf(), Container::Shards(shards));
        Ok(Self { path, weight_map, container, spec, notes, digest })
    }

    /// What the model is made of.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// What a person should hear of the settings, such as those that were ignored: whole lines.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Header of the GGUF file, or of that which shards were cut from: the tokenizer is in its
    /// metadata. `None`: it is in the files of [`Self::folder`].
    #[must_use]
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.container {
            Container::Gguf(gguf) => Some(gguf),
            Container::Folder | Container::Absent => None,
            Container::Shards(shards) => shards.gguf.as_ref(),
        }
    }

    /// The folder whose files hold the tokenizer. `None`: it is in the metadata of [`Self::gguf`].
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.gguf().is_none().then_some(&self.path)
    }

    /// How many ranks the shards are for; `None` for a checkpoint, which serves any number.
    #[must_use]
    pub fn shards_world(&self) -> Option<u32> {
        self.shards().map(|shards| shards.world)
    }

    /// The checkpoint that the shards were cut from, as its own [`Self::digest`] said it.
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
    /// parts of its shard.
    ///
    /// # Errors
    /// `Layout` when the layout is not for this model, or the shards are for another number of
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

    /// As given to [`Self::open`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether two processes opened the same checkpoint: XXH3-64 over `config.json`, whole
    /// headers, lengths of files, and 4 KiB out of each tensor. Not a checksum of all weights, which
    /// would cost a pass over them. Of shards: over settings and manifest, which has checksums.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Reads a rank's share of a tensor, packed, into `out` of exactly [`LocalPart::bytes`].
    ///
    /// # Errors
    /// `Io` or `Truncated` when the file changed since it was opened; `Mismatch` when the part is
    /// not one of this checkpoint, `out` has another length, or a shard's bytes are not those that
    /// were written.
    pub fn read_into(&self, part: &LocalPart, out: &mut [u8]) -> Result<(), Error> {
        self.part_reader(part, out.len() as u64)?.fill(out)
    }

    /// A rank's share of a tensor, packed, to be read piece by piece.
    ///
    /// # Errors
    /// `Mismatch` when the part is not one of this checkpoint.
    pub fn reader(&self, part: &LocalPart) -> Result<PartReader<'_>, Error> {
        self.part_reader(part, part.bytes())
    }

    fn part_reader(&self, part: &LocalPart, bytes: u64) -> Result<PartReader<'_>, Error> {
        let place = self.check_part(part, bytes)?;
        let written = self.shards().and_then(|shards| shards.digests.get(&place.1.name));
        Ok(PartReader::new(place, &part.ranges, written.copied()))
    }

    /// The tensor that `part` is cut from, if part, file and buffer agree.
    fn check_part(
        &self,
        part: &LocalPart,
        out_bytes: u64,
    ) -> Result<(&DataFile, &StoredTensor), Error> {
        let refuse = |cause: String| {
            Error::new(ErrorKind::Mismatch, cause).file(&self.path).tensor(&part.source)
        };
        let place = self.weight_map.locate(&part.source);
        let (file, tensor) = place.ok_or_else(|| refuse("no such tensor".to_owned()))?;
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
        Ok((file, tensor))
    }
}
