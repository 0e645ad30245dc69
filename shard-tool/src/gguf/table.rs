//! The tensor table, checked: types known, sizes exact, places aligned, apart and within the file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{DType, Error, ErrorKind};

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Elements in each dimension, *fastest first* as GGUF has them: a matrix is `[cols, rows]`,
    /// the reverse of what PyTorch prints.
    pub shape: Vec<u64>,
    /// Of the first byte, counted from the beginning of the file.
    pub offset: u64,
    /// Bytes of data.
    pub bytes: u64,
}

impl StoredTensor {
    /// Elements of a row: the fastest dimension.
    #[must_use]
    pub fn cols(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Rows: all other dimensions together. They follow each other without gaps.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.shape.iter().skip(1).product()
    }
}

/// A tensor info as it was read, nothing checked.
pub(super) struct RawTensor {
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    pub(super) type_id: u32,
    /// Counted from the start of the data.
    pub(super) offset: u64,
    /// Where in the header it was said.
    pub(super) at: u64,
}

/// What the infos are checked against.
pub(super) struct TensorTable {
    pub(super) path: PathBuf,
    pub(super) file_bytes: u64,
    pub(super) alignment: u64,
    pub(super) data_start: u64,
}

/// Checks each tensor, then that no two overlap, then that the file is long enough for all.
pub(super) fn check(
    raw: Vec<RawTensor>,
    table: &TensorTable,
) -> Result<BTreeMap<String, StoredTensor>, Error> {
    let mut by_name = BTreeMap::new();
    for raw in raw {
        let refuse = |kind, cause: String| {
            Error::new(kind, cause).file(&table.path).tensor(&raw.name).at(raw.at)
        };
        let dtype =
            DType::from_gguf(raw.type_id).map_err(|cause| refuse(ErrorKind::Unsupported, cause))?;
        let (offset, bytes) =
            place(&raw, dtype, table).map_err(|cause| refuse(ErrorKind::Format, cause))?;
        if by_name.contains_key(&raw.name) {
            return Err(refuse(ErrorKind::Format, "two tensors of this name".to_owned()));
        }
        let (name, shape) = (raw.name, raw.shape);
        by_name.insert(name.clone(), StoredTensor { name, dtype, shape, offset, bytes });
    }
    let mut by_offset: Vec<&StoredTensor> = by_name.values().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let cause = format!("its data overlap those of {}", pair[1].name);
            let error = Error::new(ErrorKind::Format, cause).file(&table.path);
            return Err(error.tensor(&pair[0].name).at(pair[1].offset));
        }
    }
    check_length(&by_offset, table)?;
    Ok(by_name)
}

/// Offset within the file and bytes of a tensor, neither of which can overflow.
fn place(raw: &RawTensor, dtype: DType, table: &TensorTable) -> Result<(u64, u64), String> {
    if raw.shape.contains(&0) {
        return Err(format!("shape {:?} has no elements", raw.shape));
    }
    let block = u64::from(dtype.block_elems());
    if !raw.shape[0].is_multiple_of(block) {
        let (cols, name) = (raw.shape[0], dtype.name());
        return Err(format!("rows of {cols} elements are not whole {name} blocks of {block}"));
    }
    if !raw.offset.is_multiple_of(table.alignment) {
        return Err(format!("offset {} is not aligned to {}", raw.offset, table.alignment));
    }
    let elems = raw.shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
    let bytes = elems.and_then(|elems| dtype.bytes_of(elems));
    let offset = raw.offset.checked_add(table.data_start);
    match (offset, bytes) {
        (Some(offset), Some(bytes)) if offset.checked_add(bytes).is_some() => Ok((offset, bytes)),
        _ => Err(format!("shape {:?} at offset {} is absurdly large", raw.shape, raw.offset)),
    }
}

/// The first tensor that the file does not hold whole, and how much is missing in all.
fn check_length(by_offset: &[&StoredTensor], table: &TensorTable) -> Result<(), Error> {
    let end = by_offset.last().map_or(0, |last| last.offset + last.bytes);
    let cut = by_offset.iter().find(|tensor| tensor.offset + tensor.bytes > table.file_bytes);
    let Some(cut) = cut else { return Ok(()) };
    let short = end - table.file_bytes;
    let cause = format!(
        "{short} bytes short: the file has {} bytes, its tensors need {end}",
        table.file_bytes
    );
    let error = Error::new(ErrorKind::Truncated, cause).file(&table.path).tensor(&cut.name);
    Err(error.at(cut.offset).way_out("the file is truncated: download or copy it again"))
}
