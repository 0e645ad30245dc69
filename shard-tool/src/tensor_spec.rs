//! Tensors of a model: what each is fused out of and how ranks divide it. A part of
//! [`crate::spec`].

use serde::Serialize;

use crate::DType;

/// A tensor of the running model, fused out of one or more tensors of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorSpec {
    /// Run-time name: `layers.3.attn.qkv`.
    pub name: String,
    /// Checkpoint tensors whose rows follow each other; types may differ between parts.
    pub parts: Vec<PartSpec>,
    /// How ranks divide it.
    pub cut: TensorCut,
    /// Index into [`crate::ModelSpec::layers`] of the layer that it belongs to; `None` for
    /// embedding, final norm and head. Manifests have it in the name.
    #[serde(skip)]
    pub layer: Option<usize>,
}

impl TensorSpec {
    /// Bytes of the whole tensor, before ranks divide it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(PartSpec::bytes).sum()
    }
}

/// One checkpoint tensor, seen as a matrix `[rows, cols]` that maps `cols` inputs to `rows`
/// outputs, row-major. A norm is one row; a bias one column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartSpec {
    /// Name in the checkpoint.
    pub source: String,
    /// Type in the checkpoint, which memory keeps.
    pub dtype: DType,
    /// Rows of the matrix: its outputs.
    pub rows: u32,
    /// Columns of the matrix: its inputs. A row is whole blocks of `dtype`.
    pub cols: u32,
    /// In which order the checkpoint has the rows.
    pub row_order: RowOrder,
}

impl PartSpec {
    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> u64 {
        self.dtype.row_bytes(self.cols)
    }

    /// Bytes of all rows.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.row_bytes() * u64::from(self.rows)
    }
}

/// Order of a part's rows in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RowOrder {
    /// As the engine wants them.
    AsIs,
    /// llama.cpp's converter interleaves the halves of each q and k head (its rope pairs
    /// neighbours): row `2i + half` of a head there is row `half * head_dim / 2 + i` here.
    LlamaCppInterleaved {
        /// Rows of one head, an even number.
        head_dim: u32,
    },
    /// The last rows of each head are rotated, and the checkpoint interleaves their halves, as
    /// [`Self::LlamaCppInterleaved`] does with whole heads. DeepSeek's checkpoints are so.
    InterleavedTail {
        /// Rows of one head.
        head_dim: u32,
        /// Rotated rows of one head, an even number.
        tail: u32,
    },
}

impl RowOrder {
    /// The checkpoint's row that holds the engine's row `row`.
    #[must_use]
    pub fn source_row(self, row: u32) -> u32 {
        match self {
            Self::AsIs => row,
            Self::LlamaCppInterleaved { head_dim } => {
                let within = row % head_dim;
                row - within + interleaved(within, head_dim)
            }
            Self::InterleavedTail { head_dim, tail } => {
                let (within, plain) = (row % head_dim, head_dim - tail);
                match within.checked_sub(plain) {
                    None => row,
                    Some(rotated) => row - rotated + interleaved(rotated, tail),
                }
            }
        }
    }
}

/// Where row `row` of `rows` lies when the halves are interleaved.
fn interleaved(row: u32, rows: u32) -> u32 {
    let half_rows = rows / 2;
    2 * (row % half_rows) + row / half_rows
}

/// How ranks divide a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TensorCut {
    /// Every rank has all of it.
    Replicated,
    /// Three parts q, k, v: rows of the rank's query heads, then of its KV heads, twice.
    QkvHeads,
    /// Rows of the rank's query heads, so many each.
    HeadRows(u32),
    /// Columns that the rank's query heads feed.
    HeadColumns,
    /// Of each part (gate, up) the rows that make the rank's FFN columns, which are those of the
    /// shared expert where the layer is a mixture.
    FfnRows,
    /// Columns that the rank's FFN rows feed.
    FfnColumns,
    /// So many consecutive parts for each expert: those of the rank's experts, whole.
    Experts(u32),
    /// Rows of the rank's share of the vocabulary.
    VocabRows,
}
