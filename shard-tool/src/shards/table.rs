//! What a rank's file holds, byte by byte, before any byte is read. Pure.
//!
//! It is a standard safetensors file with parts in load order. Header and parts are aligned to 4
//! KiB, so a reader may use direct I/O, and no page holds two parts. The format forbids holes, so a
//! gap is a tensor of its own, `_fill.N`. The same model, rank count and source give the same file:
//! the writer writes this header, and the reader expects to find it.

use std::collections::BTreeSet;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::header::{ALIGN_BYTES, Origin, rank_header};
use crate::slice::local_tensor;
use crate::{DType, Error, ErrorKind, ModelSpec, RankLayout};

/// The places of everything in a rank's file.
pub(super) struct RankTable {
    /// The name of the file.
    pub(super) file: String,
    pub(super) parts: Vec<PlacedPart>,
    pub(super) fills: Vec<Fill>,
    /// Length, JSON and spaces, up to the first part.
    pub(super) header: Vec<u8>,
    pub(super) file_bytes: u64,
}

/// A rank's slice of a checkpoint tensor, and its place in the file.
pub(super) struct PlacedPart {
    /// The run-time tensor that it is a part of.
    pub(super) tensor: String,
    /// The name in the checkpoint.
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) rows: u32,
    pub(super) cols: u32,
    /// The columns that the rank feeds, as in [`crate::LocalPart::inputs`].
    pub(super) inputs: [u32; 2],
    /// The first byte, counted from the beginning of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// A gap between parts, which is a tensor of its own.
pub(super) struct Fill {
    pub(super) name: String,
    /// The first byte, counted from the beginning of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// The name of a rank's file.
pub(super) fn file_name(rank: u32, world: u32) -> String {
    format!("rank-{rank}-of-{world}.safetensors")
}

impl RankTable {
    /// Places everything in the file of the rank of `layout`, for the checkpoint with that digest.
    pub(super) fn new(
        spec: &ModelSpec,
        layout: &RankLayout,
        source_digest: u64,
    ) -> Result<Self, Error> {
        let mut parts = parts(spec, layout)?;
        let mut fills = Vec::new();
        // Offsets count from the start of the data, as in the header, until its length is known.
        let mut end = 0_u64;
        for part in &mut parts {
            part.offset = end.next_multiple_of(ALIGN_BYTES as u64);
            if part.offset > end {
                let name = format!("_fill.{}", fills.len());
                fills.push(Fill { name, offset: end, bytes: part.offset - end });
            }
            end = part.offset + part.bytes;
        }
        let header = rank_header(&Origin::new(layout, source_digest), entries(&parts, &fills))?;
        let data_start = header.len() as u64;
        parts.iter_mut().for_each(|part| part.offset += data_start);
        fills.iter_mut().for_each(|fill| fill.offset += data_start);
        let file = file_name(layout.rank, layout.world);
        Ok(Self { file, parts, fills, header, file_bytes: data_start + end })
    }
}

/// The parts that the rank holds, in load order and without places.
fn parts(spec: &ModelSpec, layout: &RankLayout) -> Result<Vec<PlacedPart>, Error> {
    let (mut parts, mut names) = (Vec::new(), BTreeSet::new());
    for tensor in &spec.tensors {
        let local = local_tensor(tensor, layout)?;
        for part in local.parts {
            if !names.insert(part.source.clone()) {
                let cause = "used twice by the model, which shards cannot say";
                return Err(Error::new(ErrorKind::Layout, cause).tensor(&part.source));
            }
            let bytes = part.bytes();
            parts.push(PlacedPart {
                tensor: local.name.clone(),
                name: part.source,
                dtype: part.dtype,
                rows: part.rows,
                cols: part.cols,
                inputs: [part.inputs.start, part.inputs.end],
                offset: 0,
                bytes,
            });
        }
    }
    Ok(parts)
}

/// The entries of the header in the order of their places. Packed types are stored as bytes, since
/// the format has no types for them.
fn entries(parts: &[PlacedPart], fills: &[Fill]) -> Vec<(String, TensorInfo)> {
    let bytes_at = |(offset, bytes): (u64, u64)| (to_usize(offset), to_usize(offset + bytes));
    let mut entries = Vec::with_capacity(parts.len() + fills.len());
    let mut fills = fills.iter().peekable();
    for part in parts {
        if let Some(fill) = fills.next_if(|fill| fill.offset < part.offset) {
            let (shape, data_offsets) =
                (vec![to_usize(fill.bytes)], bytes_at((fill.offset, fill.bytes)));
            entries.push((fill.name.clone(), TensorInfo { dtype: Dtype::U8, shape, data_offsets }));
        }
        let (dtype, shape) = match part.dtype.safetensors() {
            Some(dtype) => (dtype, vec![part.rows as usize, part.cols as usize]),
            None => (Dtype::U8, vec![to_usize(part.bytes)]),
        };
        let data_offsets = bytes_at((part.offset, part.bytes));
        entries.push((part.name.clone(), TensorInfo { dtype, shape, data_offsets }));
    }
    entries
}

/// Converts a place or a length within a file.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
