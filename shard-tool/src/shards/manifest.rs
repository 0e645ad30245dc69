//! `manifest.json`: what a folder of shards holds, and what it was cut from.
//!
//! Digests are XXH3-64, written as sixteen hexadecimal digits. They find damage and mistakes, but
//! are no protection against an attacker.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::coverage::Repeated;
use super::format::{FORMAT, LAYOUT_VERSION, MANIFEST, SHARD_AGAIN};
use super::layout_record::LayoutRecord;
use super::table::RankTable;
use crate::hf::{not_json, read_bounded};
use crate::{Error, ErrorKind};

/// The longest manifest. A tensor takes some 300 bytes for each rank.
const MANIFEST_BYTES_MAX: u64 = 512 << 20;

/// The whole manifest.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: String,
    layout_version: u32,
    /// The version of binfer that wrote the folder.
    written_by: String,
    pub(super) source: SourceRecord,
    /// The model's description, as the settings beside the manifest give it.
    pub(super) spec: Value,
    pub(super) layout: LayoutRecord,
    pub(super) ranks: Vec<RankRecord>,
}

/// The checkpoint that was cut.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceRecord {
    /// The name of its file or folder.
    pub(super) name: String,
    /// Its [`crate::Checkpoint::digest`].
    pub(super) digest: Digest,
    pub(super) files: Vec<SourceFile>,
    /// Its tensors, in the order of their names.
    pub(super) tensors: Vec<SourceTensor>,
    /// Matrices that are computed out of tensors which are [`Covered::ByViews`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) views: Vec<SourceTensor>,
}

/// A file of the checkpoint's weights.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) header_xxh3: Digest,
}

/// A tensor of the checkpoint, and what became of its bytes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceTensor {
    pub(super) name: String,
    pub(super) dtype: String,
    /// The elements in each dimension, fastest first.
    pub(super) shape: Vec<u64>,
    pub(super) bytes: u64,
    pub(super) covered: Covered,
}

/// What became of a tensor's bytes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Covered {
    /// Ranks keep every byte, and some bytes more than once for a declared reason.
    ByRanks { xxh3: Digest, repeated: Repeated, repeated_bytes: u64 },
    /// Each element is one of a view's, and what became of the views stands with them.
    ByViews,
    /// The tensor is a setting, and is kept with the other settings.
    BySettings,
    /// The tensor follows from the settings, and the model does not use it.
    Unused,
}

/// A rank's file and what it holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RankRecord {
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) tensors: Vec<PartRecord>,
    pub(super) fills: Vec<FillRecord>,
}

/// A part in a rank's file, with its logical type and shape, its place and its digest.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartRecord {
    pub(super) name: String,
    /// The run-time tensor that it is a part of.
    pub(super) tensor: String,
    pub(super) dtype: String,
    /// Rows and columns.
    pub(super) shape: [u32; 2],
    /// The columns that the rank feeds. The other columns of a shared block are fed zero.
    pub(super) inputs: [u32; 2],
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) xxh3: Digest,
}

/// A gap in a rank's file, which is a tensor of its own.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FillRecord {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// An XXH3-64, written as hexadecimal digits, since JSON's numbers are not exact above 2^53.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Digest(pub(super) u64);

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        format!("{:016x}", digest.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        let digits = Some(&text).filter(|text| text.len() == 16);
        let digest = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        digest.map(Self).ok_or(NotADigest(text))
    }
}

/// A text of a manifest in the place of a digest.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not 16 hexadecimal digits")]
pub(super) struct NotADigest(String);

impl RankRecord {
    /// The record of a rank's file, whose parts have these digests.
    pub(super) fn new(table: &RankTable, digests: &[u64]) -> Self {
        let tensors = table.parts.iter().zip(digests).map(|(part, digest)| PartRecord {
            name: part.name.clone(),
            tensor: part.tensor.clone(),
            dtype: part.dtype.name().into(),
            shape: [part.rows, part.cols],
            inputs: part.inputs,
            offset: part.offset,
            bytes: part.bytes,
            xxh3: Digest(*digest),
        });
        let fills = table.fills.iter().map(|fill| FillRecord {
            name: fill.name.clone(),
            offset: fill.offset,
            bytes: fill.bytes,
        });
        Self {
            file: table.file.clone(),
            bytes: table.file_bytes,
            tensors: tensors.collect(),
            fills: fills.collect(),
        }
    }
}

impl Manifest {
    pub(super) fn new(
        source: SourceRecord,
        spec: Value,
        layout: LayoutRecord,
        ranks: Vec<RankRecord>,
    ) -> Self {
        let written_by = format!("binfer {}", env!("CARGO_PKG_VERSION"));
        let layout_version = LAYOUT_VERSION;
        Self { format: FORMAT.into(), layout_version, written_by, source, spec, layout, ranks }
    }

    /// Reads the manifest of a folder. Also returns its text.
    pub(super) fn read(folder: &Path) -> Result<(Self, Vec<u8>), Error> {
        #[derive(Deserialize)]
        struct ManifestVersion {
            format: String,
            layout_version: u32,
        }
        let path = folder.join(MANIFEST);
        let text = read_bounded(&path, MANIFEST_BYTES_MAX)?;
        let head: ManifestVersion =
            serde_json::from_slice(&text).map_err(|error| damaged(&path, &error))?;
        if head.format != FORMAT {
            let cause = format!("its format is {:?}, not {FORMAT:?}", head.format);
            return Err(Error::new(ErrorKind::Unsupported, cause).file(&path));
        }
        if head.layout_version != LAYOUT_VERSION {
            let version = head.layout_version;
            let cause = format!("shards of layout version {version}; this is {LAYOUT_VERSION}");
            let error = Error::new(ErrorKind::Unsupported, cause).file(&path);
            return Err(error.way_out(SHARD_AGAIN));
        }
        let manifest = serde_json::from_slice(&text).map_err(|error| damaged(&path, &error))?;
        Ok((manifest, text))
    }

    /// Whether two manifests agree on all but the checkpoint's name and the version that wrote
    /// them.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let (one, two) = (&self.source, &other.source);
        (one.digest, &one.files) == (two.digest, &two.files)
            && (&one.tensors, &one.views) == (&two.tensors, &two.views)
            && (&self.spec, &self.layout, &self.ranks) == (&other.spec, &other.layout, &other.ranks)
    }

    /// The text of the file.
    pub(super) fn text(&self) -> Result<Vec<u8>, Error> {
        let failed = |error: serde_json::Error| Error::new(ErrorKind::Format, error.to_string());
        serde_json::to_vec(self).map_err(failed)
    }
}

fn damaged(path: &Path, error: &serde_json::Error) -> Error {
    not_json(path, error).way_out(SHARD_AGAIN)
}
