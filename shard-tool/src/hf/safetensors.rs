//! The header of a safetensors file: a length, JSON, then data without holes.
//!
//! After the format's README. Checked before memory is taken or weights are read: the length of the
//! header, the bytes of each tensor against its shape and type, that data follow each other from
//! the first byte to the last of the file.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::gguf::StoredTensor;
use crate::ranged_read::ReadAt;
use crate::{DType, Error, ErrorKind};

/// The format's own limit.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// More than any weight has.
const DIMS_MAX: usize = 8;
/// Bytes of the length before the header.
const LENGTH_BYTES: u64 = 8;

/// What to do about a file that cannot be.
const DAMAGED: &str = "the file is truncated or damaged: download or copy it again";

/// A file to read the header of, which need not be here.
#[derive(Clone, Copy)]
pub(crate) struct HeaderFile<'a> {
    /// For messages.
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
    let entries: Entries = serde_json::from_slice(&text).map_err(|error| {
        let at = LENGTH_BYTES + (error.column() as u64).saturating_sub(1);
        let error = refuse(file, ErrorKind::Format, format!("its header is damaged: {error}"));
        error.at(at).way_out(DAMAGED)
    })?;
    let data_start = LENGTH_BYTES + text.len() as u64;
    let mut tensors = Vec::with_capacity(entries.0.len());
    for (name, entry) in entries.0 {
        let place = data_start.saturating_add(entry.data_offsets[0]);
        let info = entry.tensor(&name, data_start);
        let error = |(kind, cause)| refuse(file, kind, cause).tensor(&name).at(place);
        tensors.push(info.map_err(error)?);
    }
    tensors.sort_by_key(|tensor| (tensor.offset, tensor.bytes));
    check_places(file, &tensors, data_start)?;
    Ok(SafetensorsHeader { tensors, digest: xxhash_rust::xxh3::xxh3_64(&text) })
}

fn refuse(file: &HeaderFile<'_>, kind: ErrorKind, cause: impl Into<String>) -> Error {
    Error::new(kind, cause).file(file.path)
}

/// The JSON of the header, its length checked before it is read.
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

/// Sorted tensors must follow each other without overlap or hole, and fill the file.
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

/// What the header says of a tensor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderEntry {
    dtype: String,
    /// Slowest first.
    #[serde(deserialize_with = "dims")]
    shape: Vec<u64>,
    /// First byte and end, counted from the start of the data.
    data_offsets: [u64; 2],
}

/// A shape; more dimensions than any tensor has are refused before they take memory.
fn dims<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct Dims;
    impl<'de> Visitor<'de> for Dims {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {DIMS_MAX} dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u64>, A::Error> {
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
    deserializer.deserialize_seq(Dims)
}

impl HeaderEntry {
    /// The tensor, if type, shape and offsets agree; nothing overflows.
    fn tensor(&self, name: &str, data_start: u64) -> Result<StoredTensor, (ErrorKind, String)> {
        let damaged = |cause: String| (ErrorKind::Format, cause);
        let dtype = DType::from_safetensors(&self.dtype);
        let dtype = dtype.map_err(|cause| (ErrorKind::Unsupported, cause))?;
        let elems = self.shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        let bytes = elems.and_then(|elems| dtype.bytes_of(elems));
        let [start, end] = self.data_offsets;
        let offset = start.checked_add(data_start);
        let (Some(bytes), Some(offset), Some(_)) = (bytes, offset, end.checked_add(data_start))
        else {
            let cause = format!("shape {:?} at bytes {start}..{end} is absurdly large", self.shape);
            return Err(damaged(cause));
        };
        if end.checked_sub(start) != Some(bytes) {
            let (shape, dtype) = (&self.shape, dtype.name());
            let cause = format!("shape {shape:?} of {dtype} is {bytes} bytes, not {start}..{end}");
            return Err(damaged(cause));
        }
        let shape = self.shape.iter().rev().copied().collect();
        Ok(StoredTensor { name: name.to_owned(), dtype, shape, offset, bytes })
    }
}

/// All entries but `__metadata__`, as they come.
struct Entries(Vec<(String, HeaderEntry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                entries.push((name, map.next_value()?));
            }
        }
        Ok(Entries(entries))
    }
}
