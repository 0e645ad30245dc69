//! Sums and gathers over ranks, made of exchanges of pieces. Safe code.
//!
//! There is no reduce-scatter: every rank adds everything itself. With few ranks on one host that
//! costs no more traffic than sending sums back, and half the waits.

use super::id::CommError;
use super::note::{CollectiveOp, Note};
use super::{PIECE_FLOATS, ShmComm};

/// Floats that are added at once, out of the first-level cache.
const BLOCK: usize = 1024;

impl ShmComm {
    fn note(&mut self, op: CollectiveOp, len: usize, shape: u64) -> Note {
        self.sequence = self.sequence.wrapping_add(1);
        Note::new(op, self.sequence, len, shape)
    }

    /// `x = ((rank 0's + rank 1's) + rank 2's) + ...`, the same bits on every rank.
    pub fn all_reduce(&mut self, x: &mut [f32]) -> Result<(), CommError> {
        let world = self.world();
        let note = self.note(CollectiveOp::AllReduce, x.len(), 0);
        // An empty tensor is a meeting too: a rank that thinks otherwise must be noticed.
        for begin in (0..x.len().max(1)).step_by(PIECE_FLOATS) {
            let end = x.len().min(begin + PIECE_FLOATS);
            let piece = &mut x[begin..end];
            let pieces = self.exchange(&note, piece)?;
            for (i, sum) in piece.chunks_mut(BLOCK).enumerate() {
                pieces.copy(0, i * BLOCK, sum);
                let mut block = [0.0; BLOCK];
                let addend = &mut block[..sum.len()];
                for rank in 1..world {
                    pieces.copy(rank, i * BLOCK, addend);
                    sum.iter_mut().zip(&*addend).for_each(|(s, a)| *s += a);
                }
            }
        }
        Ok(())
    }

    /// `out` = all ranks' `mine`, in rank order; `parts` are their lengths.
    pub fn all_gather(
        &mut self,
        mine: &[f32],
        parts: &[usize],
        out: &mut [f32],
    ) -> Result<(), CommError> {
        self.all_gather_rows(mine, 1, parts, out)
    }

    /// `out` is `[rows, sum of cols]`; rank r has its `[rows, cols[r]]` in `mine`.
    pub fn all_gather_rows(
        &mut self,
        mine: &[f32],
        rows: usize,
        cols: &[usize],
        out: &mut [f32],
    ) -> Result<(), CommError> {
        let width: usize = cols.iter().sum();
        let sizes_fit = cols.len() == self.world()
            && out.len() == rows * width
            && mine.len() == rows * cols[self.rank()];
        if !sizes_fit {
            return Err(CommError::Args(format!(
                "rank {} of {} gathers {rows} rows of {cols:?}: has {} values, wants {}",
                self.rank(),
                self.world(),
                mine.len(),
                out.len()
            )));
        }
        let note = self.note(CollectiveOp::AllGather, out.len(), shape_hash(rows, cols));
        let longest = rows * cols.iter().max().copied().unwrap_or(0);
        for begin in (0..longest.max(1)).step_by(PIECE_FLOATS) {
            let range = |len: usize| begin.min(len)..(begin + PIECE_FLOATS).min(len);
            let pieces = self.exchange(&note, &mine[range(mine.len())])?;
            let mut first_col = 0;
            for (rank, &cols) in cols.iter().enumerate() {
                // From row to row, because a piece may begin and end inside one.
                let mut at = range(rows * cols);
                while at.start < at.end {
                    let (row, col) = (at.start / cols, at.start % cols);
                    let count = (cols - col).min(at.end - at.start);
                    let to = row * width + first_col + col;
                    pieces.copy(rank, at.start - begin, &mut out[to..to + count]);
                    at.start += count;
                }
                first_col += cols;
            }
        }
        Ok(())
    }
}

/// FNV-1a over the numbers; never 0, which stands for "no parts".
fn shape_hash(rows: usize, cols: &[usize]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325;
    let step = |hash: u64, n: &usize| (hash ^ *n as u64).wrapping_mul(0x0100_0000_01b3);
    [rows].iter().chain(cols).fold(start, step).max(1)
}
