//! Which bytes of a checkpoint tensor a rank keeps, and in which order. Pure.
//!
//! A local tensor is the concatenation of byte ranges of the checkpoint. Nothing is converted, so
//! shards and checkpoints give the same bits. Whole rows may change their order. Columns are cut
//! between quantisation blocks. If the border of a head falls inside a block, both neighbours keep
//! the block, and [`LocalPart::inputs`] says which columns a rank feeds.

use std::iter;
use std::ops::Range;

use crate::rank_layout::LayerLayout;
use crate::spec::{PartSpec, RowOrder, TensorCut, TensorSpec};
use crate::{DType, Error, ErrorKind, ModelSpec, RankLayout};

/// A rank's slice of a [`TensorSpec`]. The rows of its parts follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTensor {
    /// The run-time name, as the spec has it.
    pub name: String,
    /// How the tensor is cut.
    pub cut: TensorCut,
    /// The slices of the spec's parts, in the same order; of experts, those that the rank holds.
    pub parts: Vec<LocalPart>,
}

impl LocalTensor {
    /// The bytes of all parts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(LocalPart::bytes).sum()
    }

    /// The rows of all parts, which are the output features of the fused gemm.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// The stored columns, of which all parts have as many.
    #[must_use]
    pub fn cols(&self) -> u32 {
        self.parts.first().map_or(0, |part| part.cols)
    }
}

/// A rank's slice of a [`PartSpec`]: a row-major matrix `[rows, cols]` of packed blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPart {
    /// The tensor's name in the checkpoint.
    pub source: String,
    /// The element type, as the checkpoint has it.
    pub dtype: DType,
    /// The number of output features.
    pub rows: u32,
    /// The number of stored input features: whole blocks of `dtype`.
    pub cols: u32,
    /// The columns of `0..cols` that this rank feeds. The others belong to a neighbour and must be
    /// fed zero. There are others only if the border of a head falls inside a block.
    pub inputs: Range<u32>,
    /// The byte ranges in packed order, counted from the tensor's first byte.
    pub ranges: Vec<Range<u64>>,
}

impl LocalPart {
    /// The bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> u64 {
        self.dtype.row_bytes(self.cols)
    }

    /// The bytes of all rows, which are those of all ranges.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.row_bytes() * u64::from(self.rows)
    }

    /// The same matrix, read from a tensor that holds nothing else.
    pub(crate) fn packed(mut self) -> Self {
        self.ranges = iter::once(0..self.bytes()).collect();
        self
    }
}

/// The slice of `tensor` that the rank of `layout` keeps.
///
/// # Errors
/// [`ErrorKind::Layout`] if the layout was not made for a model with this tensor.
pub fn local_tensor(tensor: &TensorSpec, layout: &RankLayout) -> Result<LocalTensor, Error> {
    let parts = held_parts(tensor, layout)?
        .map(|index| Ok(local_part(&tensor.parts[index], &select(tensor, index, layout)?)))
        .collect::<Result<_, Error>>()?;
    Ok(LocalTensor { name: tensor.name.clone(), cut: tensor.cut, parts })
}

/// The whole of a tensor, in the order of the checkpoint.
pub(crate) fn whole_tensor(tensor: &TensorSpec) -> LocalTensor {
    let part = |part: &PartSpec| LocalPart {
        source: part.source.clone(),
        dtype: part.dtype,
        rows: part.rows,
        cols: part.cols.next_multiple_of(part.dtype.block_elems()),
        inputs: 0..part.cols,
        ranges: Vec::new(),
    };
    let parts = tensor.parts.iter().map(|whole| part(whole).packed()).collect();
    LocalTensor { name: tensor.name.clone(), cut: tensor.cut, parts }
}

/// The slices of all tensors that the rank of `layout` keeps, in load order.
///
/// # Errors
/// Those of [`local_tensor`].
pub fn local_tensors(spec: &ModelSpec, layout: &RankLayout) -> Result<Vec<LocalTensor>, Error> {
    spec.tensors.iter().map(|tensor| local_tensor(tensor, layout)).collect()
}

/// The bytes of a rank's slice of a tensor, worked out without its ranges.
pub(crate) fn local_bytes(tensor: &TensorSpec, layout: &RankLayout) -> Result<u64, Error> {
    let mut bytes = 0;
    for index in held_parts(tensor, layout)? {
        let part = &tensor.parts[index];
        let kept = select(tensor, index, layout)?;
        bytes += u64::from(len(&kept.rows)) * part.dtype.row_bytes(len(&kept.cols));
    }
    Ok(bytes)
}

/// Which parts of a tensor a rank keeps something of.
fn held_parts(tensor: &TensorSpec, layout: &RankLayout) -> Result<Range<usize>, Error> {
    let TensorCut::Experts(each) = tensor.cut else { return Ok(0..tensor.parts.len()) };
    let experts = &layer_of(tensor, layout)?.ffn.experts;
    let part = |expert: u32| (expert as usize).saturating_mul(each as usize);
    let (held, parts) = (part(experts.start)..part(experts.end), tensor.parts.len());
    if held.end > parts {
        let cause = format!("rank {} wants parts {held:?} of {parts}", layout.rank);
        return Err(Error::new(ErrorKind::Layout, cause).tensor(&tensor.name));
    }
    Ok(held)
}

/// The rows and columns of a part that a rank keeps, in the engine's order of rows.
struct Selection {
    rows: Range<u32>,
    /// The stored columns: whole blocks.
    cols: Range<u32>,
    /// The columns among `cols` that the rank feeds.
    own: Range<u32>,
}

fn select(tensor: &TensorSpec, index: usize, layout: &RankLayout) -> Result<Selection, Error> {
    let part = &tensor.parts[index];
    let layer = || layer_of(tensor, layout);
    let (mut rows, mut own) = (0..part.rows, 0..part.cols);
    match tensor.cut {
        TensorCut::Replicated | TensorCut::Experts(_) => {}
        TensorCut::QkvHeads if index == 0 => rows = layer()?.heads.q_elements(),
        TensorCut::QkvHeads => rows = layer()?.heads.kv_elements(),
        TensorCut::HeadRows(each) => {
            let heads = &layer()?.heads.q_heads;
            rows = heads.start.saturating_mul(each)..heads.end.saturating_mul(each);
        }
        TensorCut::HeadColumns => own = layer()?.heads.q_elements(),
        TensorCut::FfnRows => rows = layer()?.ffn.columns.clone(),
        TensorCut::FfnColumns => own = layer()?.ffn.columns.clone(),
        TensorCut::VocabRows => rows = layout.vocab.clone(),
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

/// The rank's share of the layer that a tensor belongs to.
fn layer_of<'l>(tensor: &TensorSpec, layout: &'l RankLayout) -> Result<&'l LayerLayout, Error> {
    tensor.layer.and_then(|layer| layout.layer(layer)).ok_or_else(|| {
        let cause = format!("it is cut as a part of layer {:?}, which nobody holds", tensor.layer);
        Error::new(ErrorKind::Layout, cause).tensor(&tensor.name)
    })
}

fn local_part(part: &PartSpec, kept: &Selection) -> LocalPart {
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

/// Adds a range, joined with the last one if the two touch.
fn append(ranges: &mut Vec<Range<u64>>, next: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ => ranges.push(next),
    }
}

fn len(range: &Range<u32>) -> u32 {
    range.end - range.start
}
