//! Pure: what a rank's file holds, byte by byte, before any byte is read.
//!
//! A standard safetensors file: parts in load order, header and parts 4 KiB aligned, so that a
//! reader may use direct I/O and pages never hold two parts. The format forbids holes, so a gap is
//! a tensor of its own, `_fill.N`. The same model, rank count and source give the same file: the
//! writer makes the header out of this, and the reader wants to find it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::LAYOUT_VERSION;
use crate::slice::local_tensor;
use crate::{DType, Error, ErrorKind, ModelSpec, RankLayout};

/// Where data and parts begin: a multiple of this.
pub(super) const ALIGN_BYTES: usize = 4096;

/// A rank's file.
pub(super) struct RankTable {
    /// Name of the file.
    pub(super) file: String,
    pub(super) parts: Vec<PlacedPart>,
    pub(super) fills: Vec<Fill>,
    /// Length, JSON, spaces; as long as the first part's offset.
    pub(super) header: Vec<u8>,
    pub(super) file_bytes: u64,
}

/// A rank's share of a checkpoint tensor, at its place.
pub(super) struct PlacedPart {
    /// Run-time tensor that it is part of.
    pub(super) tensor: String,
    /// Name in the checkpoint.
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) rows: u32,
    pub(super) cols: u32,
    /// See [`crate::LocalPart::inputs`].
    pub(super) inputs: [u32; 2],
    /// Counted from the beginning of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// A gap between parts.
pub(super) struct Fill {
    pub(super) name: String,
    /// Counted from the beginning of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// The name of a rank's file.
pub(super) fn file_name(rank: u32, world: u32) -> String {
    format!("rank-{rank}-of-{world}.safetensors")
}

impl RankTable {
    /// The file of the rank of `layout`, cut from the checkpoint of that digest.
    pub(super) fn new(
        spec: &ModelSpec,
        layout: &RankLayout,
        source_digest: u64,
    ) -> Result<Self, Error> {
        let mut parts = parts(spec, layout)?;
        let mut fills = Vec::new();
        // Offsets count from the start of the data, as the header does, until its length is known.
        let mut end = 0_u64;
        for part in &mut parts {
            part.offset = end.next_multiple_of(ALIGN_BYTES as u64);
            if part.offset > end {
                let name = format!("_fill.{}", fills.len());
                fills.push(Fill { name, offset: end, bytes: part.offset - end });
            }
            end = part.offset + part.bytes;
        }
        let header = header(&parts, &fills, &metadata(layout, source_digest));
        let data_start = header.len() as u64;
        parts.iter_mut().for_each(|part| part.offset += data_start);
        fills.iter_mut().for_each(|fill| fill.offset += data_start);
        let file = file_name(layout.rank, layout.world);
        Ok(Self { file, parts, fills, header, file_bytes: data_start + end })
    }
}

/// What the rank holds, in load order, not placed yet.
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

fn metadata(layout: &RankLayout, source_digest: u64) -> String {
    format!(
        "{{\"binfer_layout_version\":\"{LAYOUT_VERSION}\",\"rank\":\"{}\",\"world\":\"{}\",\
         \"source_digest\":\"{source_digest:016x}\"}}",
        layout.rank, layout.world
    )
}

/// The header, padded so that data begin aligned.
fn header(parts: &[PlacedPart], fills: &[Fill], metadata: &str) -> Vec<u8> {
    let mut text = format!("{{\"__metadata__\":{metadata}");
    let mut fills = fills.iter().peekable();
    for part in parts {
        if let Some(fill) = fills.next_if(|fill| fill.offset < part.offset) {
            entry(&mut text, &fill.name, ("U8", &[fill.bytes]), (fill.offset, fill.bytes));
        }
        let shape = [u64::from(part.rows), u64::from(part.cols)];
        let stored = match part.dtype.safetensors_name() {
            Some(name) => (name, &shape[..]),
            None => ("U8", std::slice::from_ref(&part.bytes)),
        };
        entry(&mut text, &part.name, stored, (part.offset, part.bytes));
    }
    text.push('}');
    let length_bytes = size_of::<u64>();
    let padded = (length_bytes + text.len()).next_multiple_of(ALIGN_BYTES);
    let mut header = ((padded - length_bytes) as u64).to_le_bytes().to_vec();
    header.extend(text.as_bytes());
    header.resize(padded, b' ');
    header
}

fn entry(text: &mut String, name: &str, stored: (&str, &[u64]), (start, bytes): (u64, u64)) {
    let (dtype, shape) = stored;
    let name = serde_json::Value::from(name);
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        ",{name}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{start},{}]}}",
        start + bytes
    );
}
