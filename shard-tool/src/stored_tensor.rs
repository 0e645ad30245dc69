//! A tensor as a file of the checkpoint stores it, whatever the file's format is.

use crate::DType;

/// A tensor of a file, as the file's header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// The name in the file.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The elements in each dimension, *fastest first* as GGUF has them. A matrix is `[cols,
    /// rows]`, the reverse of what PyTorch prints.
    pub shape: Vec<u64>,
    /// The first byte of the data, counted from the beginning of the file.
    pub offset: u64,
    /// The bytes of the data.
    pub bytes: u64,
}

impl StoredTensor {
    /// The elements of a row, which is the fastest dimension.
    #[must_use]
    pub fn cols(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// The number of rows, over all other dimensions. Rows follow each other without gaps.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.shape.iter().skip(1).fold(1, |rows, dim| rows.saturating_mul(*dim))
    }
}
