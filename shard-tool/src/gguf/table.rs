//! Checks of the tensor infos: known types, exact sizes, and aligned places within the file that do
//! not overlap.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{DType, Error, ErrorKind, StoredTensor};

/// A tensor info as it was read, before any check.
pub(super) struct RawTensor {
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    pub(super) type_id: u32,
    /// The first byte, counted from the start of the data.
    pub(super) offset: u64,
    /// The byte of the header at which the info begins.
    pub(super) at: u64,
}

/// The part of a file that holds the data of tensors.
pub(super) struct DataSection {
    pub(super) path: PathBuf,
    pub(super) file_bytes: u64,
    pub(super) alignment: u64,
    pub(super) data_start: u64,
}

/// Checks each tensor, then that no two overlap, then that the file holds all of them.
pub(super) fn check(
    raw: Vec<RawTensor>,
    section: &DataSection,
) -> Result<BTreeMap<String, StoredTensor>, Error> {
    let mut by_name = BTreeMap::new();
    for raw in raw {
        let dtype = DType::from_gguf(raw.type_id)
            .map_err(|error| section.refuse(&raw, ErrorKind::Unsupported, error.to_string()))?;
        let (offset, bytes) = section.place(&raw, dtype)?;
        if by_name.contains_key(&raw.name) {
            return Err(section.refuse(&raw, ErrorKind::Format, "two tensors of this name"));
        }
        let name = raw.name.clone();
        let stored = StoredTensor { name: raw.name, dtype, shape: raw.shape, offset, bytes };
        by_name.insert(name, stored);
    }
    let mut by_offset: Vec<&StoredTensor> = by_name.values().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let cause = format!("its data overlap those of {}", pair[1].name);
            let error = Error::new(ErrorKind::Format, cause).file(&section.path);
            return Err(error.tensor(&pair[0].name).at(pair[1].offset));
        }
    }
    check_length(&by_offset, section)?;
    Ok(by_name)
}

impl DataSection {
    /// The error for a tensor info that cannot be.
    fn refuse(&self, raw: &RawTensor, kind: ErrorKind, cause: impl Into<String>) -> Error {
        Error::new(kind, cause).file(&self.path).tensor(&raw.name).at(raw.at)
    }

    /// Works out the first byte within the file and the number of bytes of a tensor. The sum of the
    /// two does not overflow.
    fn place(&self, raw: &RawTensor, dtype: DType) -> Result<(u64, u64), Error> {
        let refuse = |cause: String| Err(self.refuse(raw, ErrorKind::Format, cause));
        if raw.shape.contains(&0) {
            return refuse(format!("shape {:?} has no elements", raw.shape));
        }
        let block = u64::from(dtype.block_elems());
        if !raw.shape[0].is_multiple_of(block) {
            let (cols, name) = (raw.shape[0], dtype.name());
            return refuse(format!(
                "rows of {cols} elements are not whole {name} blocks of {block}"
            ));
        }
        if !raw.offset.is_multiple_of(self.alignment) {
            return refuse(format!("offset {} is not aligned to {}", raw.offset, self.alignment));
        }
        let elems = raw.shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        let bytes = elems.and_then(|elems| dtype.bytes_of(elems));
        let offset = raw.offset.checked_add(self.data_start);
        match (offset, bytes) {
            (Some(offset), Some(bytes)) if offset.checked_add(bytes).is_some() => {
                Ok((offset, bytes))
            }
            _ => {
                refuse(format!("shape {:?} at offset {} is absurdly large", raw.shape, raw.offset))
            }
        }
    }
}

/// Refuses a file that ends before its tensors do. The error names the first tensor that is not
/// whole, and how many bytes are missing in all.
fn check_length(by_offset: &[&StoredTensor], section: &DataSection) -> Result<(), Error> {
    let end = by_offset.last().map_or(0, |last| last.offset + last.bytes);
    let cut = by_offset.iter().find(|tensor| tensor.offset + tensor.bytes > section.file_bytes);
    let Some(cut) = cut else { return Ok(()) };
    let short = end - section.file_bytes;
    let cause = format!(
        "{short} bytes short: the file has {} bytes, its tensors need {end}",
        section.file_bytes
    );
    let error = Error::new(ErrorKind::Truncated, cause).file(&section.path).tensor(&cut.name);
    Err(error.at(cut.offset).way_out("the file is truncated: download or copy it again"))
}
