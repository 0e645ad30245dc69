//! Opens a folder of shards, and checks all that can be checked without reading weights.
//!
//! The settings describe the model, as they do for a checkpoint. The description decides what each
//! file must hold, and manifest and files must say the same. So shards that are missing, cut short,
//! swapped, of another model or of another version are refused before memory is taken. The bytes of
//! weights are compared with their digests when they are read.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::format::{MANIFEST, METADATA, SHARD_AGAIN, part_name, spec_value};
use super::layout_record::LayoutRecord;
use super::manifest::{Covered, Manifest, RankRecord};
use super::table::RankTable;
use crate::data_file::DataFile;
use crate::families::{self, Described};
use crate::weight_map::WeightMap;
use crate::{DType, Error, ErrorKind, Gguf, RankLayout, StoredTensor, hf, layouts};

/// An opened folder of shards.
pub(crate) struct OpenedShards {
    /// The parts of all ranks, by [`part_name`].
    pub(crate) weight_map: WeightMap,
    pub(crate) described: Described,
    pub(crate) digest: u64,
    pub(crate) shards: Shards,
}

/// What is known of shards beyond the weight map and the description.
#[derive(Debug)]
pub(crate) struct Shards {
    /// The metadata of the GGUF file that was cut. `None` if a Hugging Face folder was.
    pub(crate) gguf: Option<Gguf>,
    pub(crate) world: u32,
    /// The digest of the checkpoint that was cut.
    pub(crate) source_digest: u64,
    /// The XXH3-64 of each part, by [`part_name`].
    pub(crate) digests: BTreeMap<String, u64>,
}

/// Opens a folder of shards.
pub(crate) fn open(folder: &Path) -> Result<OpenedShards, Error> {
    let (manifest, text) = Manifest::read(folder)?;
    let (gguf, described, settings_digest) = describe(folder, &manifest)?;
    let spec = &described.spec;
    let refuse = |cause: &str| {
        let error = Error::new(ErrorKind::Mismatch, cause).file(&folder.join(MANIFEST));
        Err(error.way_out(SHARD_AGAIN))
    };
    if spec_value(spec)? != manifest.spec {
        return refuse("the settings beside it describe another model, or are read differently");
    }
    let world = manifest.layout.tensor_parallel;
    let layouts = layouts(spec, world)?;
    if LayoutRecord::new(&layouts) != manifest.layout || layouts.len() != manifest.ranks.len() {
        return refuse("its layout is not how this version shares the model");
    }
    let source_digest = manifest.source.digest.0;
    let (mut weight_map, mut digests) = (WeightMap::default(), BTreeMap::new());
    for (layout, record) in layouts.iter().zip(&manifest.ranks) {
        let table = RankTable::new(spec, layout, source_digest)?;
        let of_parts: Vec<u64> = record.tensors.iter().map(|part| part.xxh3.0).collect();
        if RankRecord::new(&table, &of_parts) != *record {
            return refuse(&format!("its list of {} is not what the model needs", table.file));
        }
        let file = rank_file(folder, &table, layout)?;
        weight_map.add(file, 0, infos(&table, layout.rank))?;
        let names = table.parts.iter().map(|part| part_name(&part.name, layout.rank));
        digests.extend(names.zip(of_parts));
    }
    let mut hash = Xxh3::new();
    hash.update(&text);
    hash.update(&settings_digest.to_le_bytes());
    let shards = Shards { gguf, world, source_digest, digests };
    Ok(OpenedShards { weight_map, described, digest: hash.digest(), shards })
}

/// Describes the model by its settings and the list of the checkpoint's tensors. Also returns the
/// metadata of a GGUF file, and the digest of the settings.
fn describe(folder: &Path, manifest: &Manifest) -> Result<(Option<Gguf>, Described, u64), Error> {
    let mut weight_map = WeightMap::default();
    let gguf = metadata(folder, &mut weight_map)?;
    for tensor in &manifest.source.tensors {
        let dtype = DType::named(&tensor.dtype).ok_or_else(|| {
            let cause = format!("its type {:?} is not known", tensor.dtype);
            Error::new(ErrorKind::Unsupported, cause)
                .file(&folder.join(MANIFEST))
                .tensor(&tensor.name)
        })?;
        if tensor.covered != Covered::BySettings {
            weight_map.describe(StoredTensor {
                name: tensor.name.clone(),
                dtype,
                shape: tensor.shape.clone(),
                offset: 0,
                bytes: tensor.bytes,
            })?;
        }
    }
    match gguf {
        Some(gguf) => {
            let described = families::of_gguf(&gguf, &mut weight_map, &folder.join(METADATA))?;
            let digest = gguf.header_digest();
            Ok((Some(gguf), described, digest))
        }
        None if !folder.join("config.json").is_file() => {
            let cause = format!("its settings are missing: neither config.json nor {METADATA}");
            Err(Error::new(ErrorKind::Format, cause).file(folder).way_out(SHARD_AGAIN))
        }
        None => {
            let (config, text) = hf::config(folder)?;
            let described =
                families::of_config(families::of_class(&config)?, &config, &mut weight_map)?;
            Ok((None, described, xxhash_rust::xxh3::xxh3_64(&text)))
        }
    }
}

/// Opens the metadata of a GGUF file, if the folder has them, and adds its tensors to the map.
fn metadata(folder: &Path, weight_map: &mut WeightMap) -> Result<Option<Gguf>, Error> {
    let path = folder.join(METADATA);
    if !path.is_file() {
        return Ok(None);
    }
    let file = DataFile::open(&path)?;
    let gguf = Gguf::read(&file.file, &path, file.bytes)?;
    weight_map.add(file, gguf.header_digest(), gguf.tensors().cloned())?;
    Ok(Some(gguf))
}

/// Opens a rank's file, and checks that it has the header and the length of the table.
fn rank_file(folder: &Path, table: &RankTable, layout: &RankLayout) -> Result<DataFile, Error> {
    let path = folder.join(&table.file);
    let refuse = |kind, cause: String| Error::new(kind, cause).file(&path);
    if !path.exists() {
        let error = refuse(ErrorKind::Truncated, "it is missing".to_owned());
        return Err(error.way_out("copy it here, or shard the model again"));
    }
    let file = DataFile::open(&path)?;
    let there = usize::try_from(file.bytes).unwrap_or(usize::MAX).min(table.header.len());
    let mut header = vec![0; there];
    file.file
        .read_exact_at(&mut header, 0)
        .map_err(|error| Error::io(&path, "read the header", &error))?;
    if header != table.header[..there] {
        let error = refuse(ErrorKind::Mismatch, other_file(&header, table, layout));
        return Err(error.way_out("copy the right one here, or shard the model again"));
    }
    if file.bytes > table.file_bytes {
        let cause = format!("{} bytes after the last tensor", file.bytes - table.file_bytes);
        return Err(refuse(ErrorKind::Mismatch, cause).way_out(SHARD_AGAIN));
    }
    if file.bytes < table.file_bytes {
        let short = table.file_bytes - file.bytes;
        let cause = format!("{short} bytes short: it has {} of {}", file.bytes, table.file_bytes);
        let mut error = refuse(ErrorKind::Truncated, cause);
        if let Some(part) = table.parts.iter().find(|part| part.offset + part.bytes > file.bytes) {
            error = error.tensor(&part.name).at(part.offset);
        }
        return Err(error.way_out("copy it again, or shard the model again"));
    }
    Ok(file)
}

/// Says how the header of a file differs from the one that belongs there.
fn other_file(header: &[u8], table: &RankTable, layout: &RankLayout) -> String {
    // The header says so near its beginning, as `RankTable` has it.
    let said = |key: &str, header: &[u8]| {
        let text = String::from_utf8_lossy(&header[..header.len().min(1024)]).into_owned();
        let (_, rest) = text.split_once(&format!("\"{key}\":\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let differs = |key| said(key, header) != said(key, &table.header);
    match (said("rank", header), said("world", header)) {
        (Some(rank), Some(world)) if differs("rank") || differs("world") => {
            format!("it holds rank {rank} of {world}, not rank {} of {}", layout.rank, layout.world)
        }
        (Some(_), Some(_)) if differs("source_digest") => {
            "it was cut from another checkpoint than the manifest says".to_owned()
        }
        _ => "its header is damaged".to_owned(),
    }
}

/// The parts of a rank's file, as the weight map has them.
fn infos(table: &RankTable, rank: u32) -> impl Iterator<Item = StoredTensor> {
    table.parts.iter().map(move |part| StoredTensor {
        name: part_name(&part.name, rank),
        dtype: part.dtype,
        shape: vec![part.cols.into(), part.rows.into()],
        offset: part.offset,
        bytes: part.bytes,
    })
}
