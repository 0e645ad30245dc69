//! The header of a safetensors file: a length, JSON, then the data of tensors without gaps.
//!
//! The JSON is read into the [`TensorInfo`] and [`Dtype`] of the format's own crate. Before memory
//! is taken, this reader bounds the header's length and the dimensions of each shape. After that it
//! checks that the bytes of each tensor are those of its shape and type, and that the data follow
//! each other from the end of the header to the end of the file. Each error names tensor and byte.
//!
//! The crate's `Metadata` does not read headers here: it keeps one of two entries with the same
//! name, holds a hostile header several times over, and does not say which byte is wrong.

use std::fmt;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::ranged_read::ReadAt;
use crate::{DType, Error, ErrorKind, StoredTensor};

/// The longest header, by the format's own limit.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// The most dimensions of a shape. Weights have fewer.
const DIMS_MAX: usize = 8;
/// The bytes of the length before the header.
const LENGTH_BYTES: u64 = 8;

/// The way out for a file that contradicts itself.
const DAMAGED: &str = "the file is truncated or damaged: download or copy it again";

/// A file whose header is read. It may lie on this machine or on the hub.
#[derive(Clone, Copy)]
pub(crate) struct HeaderFile<'a> {
    /// Its path, for messages.
    pub(crate) path: &'a Path,
    pub(crate) reader: &'a dyn ReadAt,
    /// Its length.
    pub(crate) bytes: u64,
}

/// What a file says it holds, checked against its length.
pub(crate) struct SafetensorsHeader {
    pub(crate) tensors: Vec<StoredTensor>,
    /// XXH3-64 of the JSON.
    pub(crate) digest: u64,
}

/// Reads the header of a file.
pub(crate) fn header(file: &HeaderFile<'_>) -> Result<SafetensorsHeader, Error> {
    let text = text(file)?;
    let entries: HeaderEntries = serde_json::from_slice(&text).map_err(|error| {
        let at = LENGTH_BYTES + (error.column() as u64).saturating_sub(1);
        let error = refuse(file, ErrorKind::Format, format!("its header is damaged: {error}"));
        error.at(at).way_out(DAMAGED)
    })?;
    let data_start = LENGTH_BYTES + text.len() as u64;
    let stored = |(name, info)| stored_tensor(file, name, &info, data_start);
    let mut tensors = entries.0.into_iter().map(stored).collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by_key(|tensor| (tensor.offset, tensor.bytes));
    check_places(file, &tensors, data_start)?;
    Ok(SafetensorsHeader { tensors, digest: xxhash_rust::xxh3::xxh3_64(&text) })
}

fn refuse(file: &HeaderFile<'_>, kind: ErrorKind, cause: impl Into<String>) -> Error {
    Error::new(kind, cause).file(file.path)
}

/// Reads the JSON of the header, after checking its length.
fn text(file: &HeaderFile<'_>) -> Result<Vec<u8>, Error> {
    let failed = |error: std::io::Error| Error::io(file.path, "read the header", &error);
    if file.bytes < LENGTH_BYTES {
        let cause = format!("{} bytes are too few for a safetensors file", file.bytes);
        return Err(refuse(file, ErrorKind::Truncated, cause).at(0).way_out(DAMAGED));
    }
    let mut length = [0; size_of::<u64>()];
    file.reader.fill(&mut length, 0).map_err(failed)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX {
        let cause = format!("a header of {length} bytes; {HEADER_BYTES_MAX} are allowed");
        let way_out = "give a safetensors file (a Git LFS pointer is not one: run `git lfs pull`)";
        return Err(refuse(file, ErrorKind::Format, cause).at(0).way_out(way_out));
    }
    let left = file.bytes - LENGTH_BYTES;
    if length > left {
        let cause = format!("the file ends within its header: {} bytes short", length - left);
        return Err(refuse(file, ErrorKind::Truncated, cause).at(file.bytes).way_out(DAMAGED));
    }
    let mut text = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.reader.fill(&mut text, LENGTH_BYTES).map_err(failed)?;
    Ok(text)
}

/// Checks that type, shape and offsets of an entry agree, without any overflow.
fn stored_tensor(
    file: &HeaderFile<'_>,
    name: String,
    info: &TensorInfo,
    data_start: u64,
) -> Result<StoredTensor, Error> {
    let (start, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
    let refuse =
        |kind, cause| refuse(file, kind, cause).tensor(&name).at(data_start.saturating_add(start));
    let dtype = DType::from_safetensors(info.dtype)
        .map_err(|error| refuse(ErrorKind::Unsupported, error.to_string()))?;
    let elems = info.shape.iter().try_fold(1_u64, |elems, dim| elems.checked_mul(*dim as u64));
    let bytes = elems.and_then(|elems| dtype.bytes_of(elems));
    let offset = start.checked_add(data_start);
    let (Some(bytes), Some(offset), Some(_)) = (bytes, offset, end.checked_add(data_start)) else {
        let cause = format!("shape {:?} at bytes {start}..{end} is absurdly large", info.shape);
        return Err(refuse(ErrorKind::Format, cause));
    };
    if end.checked_sub(start) != Some(bytes) {
        let (shape, dtype) = (&info.shape, dtype.name());
        let cause = format!("shape {shape:?} of {dtype} is {bytes} bytes, not {start}..{end}");
        return Err(refuse(ErrorKind::Format, cause));
    }
    let shape = info.shape.iter().rev().map(|dim| *dim as u64).collect();
    Ok(StoredTensor { name, dtype, shape, offset, bytes })
}

/// Checks that sorted tensors follow each other without overlap or hole, and fill the file.
fn check_places(
    file: &HeaderFile<'_>,
    tensors: &[StoredTensor],
    data_start: u64,
) -> Result<(), Error> {
    let mut end = data_start;
    for (index, tensor) in tensors.iter().enumerate() {
        if tensor.offset != end {
            let before = index.checked_sub(1).map_or("the header", |before| &tensors[before].name);
            let what = if tensor.offset < end { "overlap" } else { "leave a hole after" };
            let error =
                refuse(file, ErrorKind::Format, format!("its data {what} those of {before}"));
            return Err(error.tensor(&tensor.name).at(tensor.offset.min(end)).way_out(DAMAGED));
        }
        end += tensor.bytes;
    }
    if end > file.bytes {
        let cut = tensors.iter().find(|tensor| tensor.offset + tensor.bytes > file.bytes);
        let (name, at) = cut.map_or(("", end), |cut| (&cut.name, cut.offset));
        let (short, bytes) = (end - file.bytes, file.bytes);
        let cause =
            format!("{short} bytes short: the file has {bytes} bytes, its tensors need {end}");
        let error = refuse(file, ErrorKind::Truncated, cause).tensor(name).at(at);
        return Err(error.way_out("the file is truncated: download or copy it again"));
    }
    if end < file.bytes {
        let cause = format!("{} bytes after the last tensor", file.bytes - end);
        return Err(refuse(file, ErrorKind::Format, cause).at(end).way_out(DAMAGED));
    }
    Ok(())
}

/// How an entry is read into the crate's type: unknown fields and long shapes are refused.
#[derive(Deserialize)]
#[serde(remote = "TensorInfo", deny_unknown_fields)]
struct BoundedInfo {
    dtype: Dtype,
    /// Slowest dimension first.
    #[serde(deserialize_with = "bounded_shape")]
    shape: Vec<usize>,
    /// First byte and end, counted from the start of the data.
    data_offsets: (usize, usize),
}

#[derive(Deserialize)]
struct HeaderEntry(#[serde(with = "BoundedInfo")] TensorInfo);

/// Reads a shape. More dimensions than any tensor has are refused before they take memory.
fn bounded_shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    struct BoundedShape;
    impl<'de> Visitor<'de> for BoundedShape {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {DIMS_MAX} dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<usize>, A::Error> {
            let mut dims = Vec::new();
            while let Some(dim) = seq.next_element()? {
                if dims.len() == DIMS_MAX {
                    return Err(A::Error::invalid_length(dims.len() + 1, &self));
                }
                dims.push(dim);
            }
            Ok(dims)
        }
    }
    deserializer.deserialize_seq(BoundedShape)
}

/// All entries but `__metadata__`, in the order of the file. Two may have the same name: the weight
/// map, which knows the tensors of all files, refuses the second one.
struct HeaderEntries(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for HeaderEntries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = HeaderEntries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderEntries, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                let HeaderEntry(info) = map.next_value()?;
                entries.push((name, info));
            }
        }
        Ok(HeaderEntries(entries))
    }
}
