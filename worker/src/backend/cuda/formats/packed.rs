//! Packed weights, as `cuda/packed_weights.cuh` lays them out: strips of eight rows, block by block
//! along a row, the bits in the order in which tensor cores want them.

/// A packed format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::backend::cuda) enum PackedFormat {
    /// Four bits (E2M1) an element, a power of two (E8M0) for each 32 of a row.
    Mxfp4,
    /// Eight bits (E4M3) an element, an f32 for each 128 of a row.
    Fp8,
}

/// Rows of a strip.
const STRIP_ROWS: usize = 8;

impl PackedFormat {
    /// Columns of a device's block.
    pub(in crate::backend::cuda) fn block_cols(self) -> usize {
        match self {
            Self::Mxfp4 => 64,
            Self::Fp8 => 128,
        }
    }

    /// Bytes of a device's block of eight rows: codes, then scales.
    fn block_bytes(self) -> usize {
        match self {
            Self::Mxfp4 => 64 * 4 + 16,
            Self::Fp8 => 256 * 4 + 32,
        }
    }

    /// Strips of so many rows.
    pub(in crate::backend::cuda) fn strips(rows: usize) -> usize {
        rows.div_ceil(STRIP_ROWS)
    }

    /// Columns of whole blocks.
    pub(super) fn stride(self, cols: usize) -> usize {
        cols.next_multiple_of(self.block_cols())
    }

    /// Bytes of a matrix.
    pub(super) fn matrix_bytes(self, rows: usize, stride: usize) -> usize {
        Self::strips(rows) * (stride / self.block_cols()) * self.block_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_matrices_take_a_sixteenth_or_a_thirty_second_more_than_their_codes() {
        let bytes =
            |format: PackedFormat, rows, cols| format.matrix_bytes(rows, format.stride(cols));
        assert_eq!(bytes(PackedFormat::Mxfp4, 5760, 2880), 5760 * 2880 / 2 * 17 / 16);
        assert_eq!(bytes(PackedFormat::Fp8, 4096, 7168), 4096 * 7168 * 33 / 32);
        // Whole strips of whole blocks.
        assert_eq!(bytes(PackedFormat::Mxfp4, 9, 65), 2 * 2 * 272);
        assert_eq!(bytes(PackedFormat::Fp8, 1, 1), 1056);
    }
}
