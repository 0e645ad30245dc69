//! The header of a GGUF file: magic, counts, key-value pairs, tensor infos.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use super::bytes::HeaderBytes;
use super::metadata::{GgufMetadata, MetadataArray, MetadataValue};
use super::table::{DataSection, RawTensor};
use super::{kind, table};
use crate::ranged_read::ReadAt;
use crate::{Error, ErrorKind, StoredTensor};

/// The fewest bytes of a key-value pair: length of an empty key, type, one byte of value.
const PAIR_BYTES_MIN: u64 = 8 + 4 + 1;
/// The fewest bytes of a tensor info: length of an empty name, count of no dimensions, type,
/// offset.
const TENSOR_BYTES_MIN: u64 = 8 + 4 + 4 + 8;
/// The most dimensions of a tensor, by ggml's limit.
const DIMS_MAX: u32 = 4;
/// The alignment of a file without `general.alignment`.
pub(super) const ALIGNMENT_DEFAULT: u64 = 32;
/// The largest alignment. A larger one would only make a file of holes.
const ALIGNMENT_MAX: u64 = 1 << 20;

/// What the header of a GGUF file says, checked against the file's length.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// The key-value pairs: hyperparameters, tokenizer, chat template.
    pub metadata: GgufMetadata,
    tensors: BTreeMap<String, StoredTensor>,
    header_digest: u64,
}

impl Gguf {
    /// Reads the header of an opened file of `file_bytes`; `path` is for messages.
    ///
    /// # Errors
    /// Errors of any kind but `Layout`, with file, tensor or key, and offset.
    pub fn read(file: &File, path: &Path, file_bytes: u64) -> Result<Self, Error> {
        Self::read_from(file, path, file_bytes)
    }

    /// Reads the header as [`Self::read`] does, also of a file that is not on this machine.
    pub(crate) fn read_from(
        file: &dyn ReadAt,
        path: &Path,
        file_bytes: u64,
    ) -> Result<Self, Error> {
        read_header(HeaderBytes::new(file, path, file_bytes))
    }

    /// The tensor of that name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &StoredTensor> {
        self.tensors.values()
    }

    /// XXH3-64 of all bytes before the data of tensors.
    #[must_use]
    pub fn header_digest(&self) -> u64 {
        self.header_digest
    }
}

/// Reads a whole header.
fn read_header(mut bytes: HeaderBytes<'_>) -> Result<Gguf, Error> {
    magic_and_version(&mut bytes)?;
    let tensor_count = bytes.count("the number of tensors", TENSOR_BYTES_MIN)?;
    let pair_count = bytes.count("the number of metadata pairs", PAIR_BYTES_MIN)?;

    let mut entries = BTreeMap::new();
    for _ in 0..pair_count {
        let at = bytes.position();
        let key = bytes.string("a metadata key")?;
        let value = value(&mut bytes, &key)?;
        if entries.contains_key(&key) {
            let cause = format!("metadata key {key} occurs twice");
            return Err(bytes.error(ErrorKind::Format, cause).at(at));
        }
        entries.insert(key, value);
    }
    let metadata = GgufMetadata::new(bytes.path(), entries);

    let mut raw = Vec::new();
    for _ in 0..tensor_count {
        raw.push(tensor(&mut bytes)?);
    }
    let alignment = alignment(&metadata, &bytes)?;
    let header_bytes = bytes.position();
    let section = DataSection {
        path: bytes.path(),
        file_bytes: bytes.file_bytes(),
        alignment,
        data_start: header_bytes.next_multiple_of(alignment),
    };
    let tensors = table::check(raw, &section)?;
    Ok(Gguf { metadata, tensors, header_digest: bytes.digest() })
}

fn magic_and_version(bytes: &mut HeaderBytes<'_>) -> Result<(), Error> {
    if bytes.left() < 4 || bytes.take(4, "the magic")? != b"GGUF" {
        let way_out = "give a .gguf file (a Git LFS pointer is not one: run `git lfs pull`)";
        let error = bytes.error(ErrorKind::Format, "not a GGUF file: it does not begin with GGUF");
        return Err(error.at(0).way_out(way_out));
    }
    let version = bytes.u32("the version")?;
    if matches!(version, 2 | 3) {
        return Ok(());
    }
    let cause = if matches!(version.swap_bytes(), 1..=3) {
        "big-endian GGUF is not supported".to_owned()
    } else {
        format!("GGUF version {version} is not supported; supported: 2, 3")
    };
    let way_out = "convert the model again with a current converter";
    Err(bytes.error(ErrorKind::Unsupported, cause).at(4).way_out(way_out))
}

/// Reads a value, which follows its type.
fn value(bytes: &mut HeaderBytes<'_>, key: &str) -> Result<MetadataValue, Error> {
    let kind = bytes.u32("the type of a metadata value")?;
    if kind != kind::ARRAY {
        return scalar(bytes, kind, key);
    }
    let of = bytes.u32("the type of an array")?;
    let count = bytes.count(&format!("the length of array {key}"), least_bytes(of))?;
    let mut values = empty_array(of).ok_or_else(|| unknown_type(bytes, of, key))?;
    for _ in 0..count {
        match (&mut values, scalar(bytes, of, key)?) {
            (MetadataArray::Unsigned(values), MetadataValue::Unsigned(value)) => values.push(value),
            (MetadataArray::Signed(values), MetadataValue::Signed(value)) => values.push(value),
            (MetadataArray::Float(values), MetadataValue::Float(value)) => values.push(value),
            (MetadataArray::Bool(values), MetadataValue::Bool(value)) => values.push(value),
            (MetadataArray::String(values), MetadataValue::String(value)) => values.push(value),
            _ => return Err(unknown_type(bytes, of, key)),
        }
    }
    Ok(MetadataValue::Array(values))
}

fn scalar(bytes: &mut HeaderBytes<'_>, kind: u32, key: &str) -> Result<MetadataValue, Error> {
    Ok(match kind {
        kind::U8 => MetadataValue::Unsigned(u8::from_le_bytes(bytes.array(key)?).into()),
        kind::U16 => MetadataValue::Unsigned(u16::from_le_bytes(bytes.array(key)?).into()),
        kind::U32 => MetadataValue::Unsigned(bytes.u32(key)?.into()),
        kind::U64 => MetadataValue::Unsigned(bytes.u64(key)?),
        kind::I8 => MetadataValue::Signed(i8::from_le_bytes(bytes.array(key)?).into()),
        kind::I16 => MetadataValue::Signed(i16::from_le_bytes(bytes.array(key)?).into()),
        kind::I32 => MetadataValue::Signed(i32::from_le_bytes(bytes.array(key)?).into()),
        kind::I64 => MetadataValue::Signed(i64::from_le_bytes(bytes.array(key)?)),
        kind::F32 => MetadataValue::Float(f32::from_le_bytes(bytes.array(key)?).into()),
        kind::F64 => MetadataValue::Float(f64::from_le_bytes(bytes.array(key)?)),
        kind::BOOL => match u8::from_le_bytes(bytes.array(key)?) {
            0 => MetadataValue::Bool(false),
            1 => MetadataValue::Bool(true),
            other => {
                let cause = format!("metadata key {key} has a boolean of value {other}");
                return Err(bytes.error(ErrorKind::Format, cause));
            }
        },
        kind::STRING => MetadataValue::String(bytes.string(key)?),
        other => return Err(unknown_type(bytes, other, key)),
    })
}

/// The fewest bytes of an element. They keep counts within what the file can hold.
fn least_bytes(kind: u32) -> u64 {
    match kind {
        kind::U16 | kind::I16 => 2,
        kind::U32 | kind::I32 | kind::F32 => 4,
        kind::U64 | kind::I64 | kind::F64 | kind::STRING => 8,
        _ => 1,
    }
}

fn empty_array(kind: u32) -> Option<MetadataArray> {
    Some(match kind {
        kind::U8 | kind::U16 | kind::U32 | kind::U64 => MetadataArray::Unsigned(Vec::new()),
        kind::I8 | kind::I16 | kind::I32 | kind::I64 => MetadataArray::Signed(Vec::new()),
        kind::F32 | kind::F64 => MetadataArray::Float(Vec::new()),
        kind::BOOL => MetadataArray::Bool(Vec::new()),
        kind::STRING => MetadataArray::String(Vec::new()),
        _ => return None,
    })
}

fn unknown_type(bytes: &HeaderBytes<'_>, kind: u32, key: &str) -> Error {
    let cause = if kind == kind::ARRAY {
        format!("metadata key {key} is an array of arrays, which is not supported")
    } else {
        format!("metadata key {key} has the unknown value type {kind}")
    };
    bytes.error(ErrorKind::Format, cause)
}

fn tensor(bytes: &mut HeaderBytes<'_>) -> Result<RawTensor, Error> {
    let at = bytes.position();
    let name = bytes.string("a tensor name")?;
    let dims = bytes.u32("the number of dimensions")?;
    if !(1..=DIMS_MAX).contains(&dims) {
        let cause = format!("{dims} dimensions; 1 to {DIMS_MAX} are allowed");
        return Err(bytes.error(ErrorKind::Format, cause).tensor(&name).at(at));
    }
    let shape = (0..dims).map(|_| bytes.u64("a dimension")).collect::<Result<_, _>>()?;
    let type_id = bytes.u32("a tensor's type")?;
    let offset = bytes.u64("a tensor's offset")?;
    Ok(RawTensor { name, shape, type_id, offset, at })
}

fn alignment(metadata: &GgufMetadata, bytes: &HeaderBytes<'_>) -> Result<u64, Error> {
    let alignment = metadata.u32("general.alignment")?.map_or(ALIGNMENT_DEFAULT, u64::from);
    if alignment.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(&alignment) {
        return Ok(alignment);
    }
    let cause = format!(
        "general.alignment is {alignment}; a power of two from 8 to {ALIGNMENT_MAX} is allowed"
    );
    Err(bytes.error(ErrorKind::Format, cause))
}
