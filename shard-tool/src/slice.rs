//! Pure: which bytes of a checkpoint tensor a rank keeps, in which order.
//!
//! A local tensor is the concatenation of its byte ranges, packed as in the checkpoint: nothing is
//! converted, so shards and plain checkpoints give the same bits. Rows may change order (whole
//! rows only); columns are cut between quantisation blocks only. Where a head border falls inside
//! a block, both neighbours keep the block, and [`LocalPart::inputs`] says which inputs are real.

use std::iter;
use std::ops::Range;

use crate::spec::{Cut, Part, RowOrder, TensorSpec};
use crate::{DType, Error, ErrorKind, ModelSpec, RankLayout};

/// A rank's share of a [`TensorSpec`]: its parts' rows follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTensor {
    /// Run-time name, that of the spec.
    pub name: String,
    /// How it was cut.
    pub cut: Cut,
    /// As many as the spec has, in the same order.
    pub parts: Vec<LocalPart>,
}

impl LocalTensor {
    /// Bytes of all parts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(LocalPart::bytes).sum()
    }

    /// Rows of all parts: outputs of the fused product.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Columns that are stored, the same for all parts.
    #[must_use]
    pub fn cols(&self) -> u32 {
        self.parts.first().map_or(0, |part| part.cols)
    }
}

/// A rank's share of a [`Part`]: a matrix `[rows, cols]`, row-major, of packed blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPart {
    /// Name in the checkpoint.
    pub source: String,
    /// Type, that of the checkpoint.
    pub dtype: DType,
    /// Outputs.
    pub rows: u32,
    /// Inputs that are stored: whole blocks of `dtype`.
    pub cols: u32,
    /// Which of `0..cols` this rank feeds. The others belong to a neighbour and must be fed zero;
    /// there are none unless a head border falls inside a block.
    pub inputs: Range<u32>,
    /// Byte ranges counted from the tensor's first byte, in the order in which they are packed.
    pub ranges: Vec<Range<u64>>,
}

impl LocalPart {
    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> u64 {
        self.dtype.row_bytes(self.cols)
    }

    /// Bytes of all rows: the sum of the ranges.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.row_bytes() * u64::from(self.rows)
    }

    /// The same out of a tensor that holds just this, packed.
    pub(crate) fn packed(mut self) -> Self {
        self.ranges = iter::once(0..self.bytes()).collect();
        self
    }
}

/// The share of `tensor` that the rank of `layout` keeps.
///
/// # Errors
/// [`ErrorKind::Layout`] when the layout was not made for a model with this tensor.
pub fn local_tensor(tensor: &TensorSpec, layout: &RankLayout) -> Result<LocalTensor, Error> {
    let parts = tensor
        .parts
        .iter()
        .enumerate()
        .map(|(index, part)| Ok(local_part(part, &select(tensor, index, layout)?)))
        .collect::<Result<_, Error>>()?;
    Ok(LocalTensor { name: tensor.name.clone(), cut: tensor.cut, parts })
}

/// All of a tensor, as the checkpoint has it.
pub(crate) fn whole_tensor(tensor: &TensorSpec) -> LocalTensor {
    let part = |part: &Part| LocalPart {
        source: part.source.clone(),
        dtype: part.dtype,
        rows: part.rows,
        cols: part.cols,
        inputs: 0..part.cols,
        ranges: Vec::new(),
    };
    let parts = tensor.parts.iter().map(|whole| part(whole).packed()).collect();
    LocalTensor { name: tensor.name.clone(), cut: tensor.cut, parts }
}

/// The shares of all tensors, in load order.
///
/// # Errors
/// As [`local_tensor`].
pub fn local_tensors(spec: &ModelSpec, layout: &RankLayout) -> Result<Vec<LocalTensor>, Error> {
    spec.tensors.iter().map(|tensor| local_tensor(tensor, layout)).collect()
}

/// Bytes of the share, without listing its ranges.
pub(crate) fn local_bytes(tensor: &TensorSpec, layout: &RankLayout) -> Result<u64, Error> {
    let mut bytes = 0;
    for (index, part) in tensor.parts.iter().enumerate() {
        let kept = select(tensor, index, layout)?;
        bytes += u64::from(len(&kept.rows)) * part.dtype.row_bytes(len(&kept.cols));
    }
    Ok(bytes)
}

/// Rows and columns of a part that a rank keeps, in the engine's row order.
struct Selection {
    rows: Range<u32>,
    /// Whole blocks.
    cols: Range<u32>,
    /// The real ones among `cols`.
    own: Range<u32>,
}

fn select(tensor: &TensorSpec, index: usize, layout: &RankLayout) -> Result<Selection, Error> {
    let part = &tensor.parts[index];
    let dim = layout.head_dim;
    let heads = |heads: &Range<u32>| heads.start * dim..heads.end * dim;
    let (mut rows, mut own) = (0..part.rows, 0..part.cols);
    match tensor.cut {
        Cut::Replicated => {}
        Cut::QkvHeads if index == 0 => rows = heads(&layout.q_heads),
        Cut::QkvHeads => rows = heads(&layout.kv_heads),
        Cut::HeadColumns => own = heads(&layout.q_heads),
        Cut::FfnRows => rows = layout.ffn.clone(),
        Cut::FfnColumns => own = layout.ffn.clone(),
        Cut::VocabRows => rows = layout.vocab.clone(),
    }
    if rows.end > part.rows || own.end > part.cols {
        let (rows_max, cols_max) = (part.rows, part.cols);
        let cause = format!(
            "rank {} of {} wants rows {rows:?} and columns {own:?} of a tensor of {rows_max} rows and {cols_max} columns",
            layout.rank, layout.world
        );
        return Err(Error::new(ErrorKind::Layout, cause).tensor(&part.source));
    }
    let block = part.dtype.block_elems();
    let cols = own.start / block * block..own.end.next_multiple_of(block);
    Ok(Selection { rows, cols, own })
}

fn local_part(part: &Part, kept: &Selection) -> LocalPart {
    let row = part.row_bytes();
    let from = part.dtype.row_bytes(kept.cols.start);
    let to = part.dtype.row_bytes(kept.cols.end);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    if part.row_order == RowOrder::AsIs && to - from == row {
        ranges.push(u64::from(kept.rows.start) * row..u64::from(kept.rows.end) * row);
    } else {
        for wanted in kept.rows.clone() {
            let first = u64::from(part.row_order.source_row(wanted)) * row;
            append(&mut ranges, first + from..first + to);
        }
    }
    LocalPart {
        source: part.source.clone(),
        dtype: part.dtype,
        rows: len(&kept.rows),
        cols: len(&kept.cols),
        inputs: kept.own.start - kept.cols.start..kept.own.end - kept.cols.start,
        ranges,
    }
}

/// Adds `next`, as part of the last range where the two touch.
fn append(ranges: &mut Vec<Range<u64>>, next: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ => ranges.push(next),
    }
}

fn len(range: &Range<u32>) -> u32 {
    range.end - range.start
}
