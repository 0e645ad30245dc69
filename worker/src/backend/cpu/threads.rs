//! The threads of a rank: one primitive, disjoint pieces of a slice worked on at once.
//!
//! Which thread does which piece is left to chance, so a piece's result may depend on its index
//! alone. Callers say how much work there is, since no piece should be smaller than what waking a
//! thread costs.

use std::ops::Range;

use rayon::ThreadPool;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::backend::BackendError;

/// A rank's threads, the calling one among them.
pub(super) struct Team {
    pool: Option<ThreadPool>,
    count: usize,
}

/// A slice of which piece `index` begins at element `start(index)` and ends where the next begins.
pub(super) struct UnevenPieces<'a, T, S> {
    pub(super) data: &'a mut [T],
    pub(super) count: usize,
    pub(super) start: S,
}

/// Work on pieces, to be split among threads.
struct Split<S, W> {
    start: S,
    work: W,
}

impl<S: Fn(usize) -> usize + Sync, W: Sync> Split<S, W> {
    /// Works on the pieces of that range, which `data` holds.
    fn at_once<T: Send>(&self, range: Range<usize>, data: &mut [T])
    where
        W: Fn(usize, &mut [T]),
    {
        if range.len() == 1 {
            return (self.work)(range.start, data);
        }
        let middle = range.start.midpoint(range.end);
        let size = (self.start)(middle) - (self.start)(range.start);
        let (left, right) = data.split_at_mut(size);
        let (first, second) = (range.start..middle, middle..range.end);
        rayon::join(|| self.at_once(first, left), || self.at_once(second, right));
    }
}

/// Multiply-adds below which other threads are not worth waking.
const WORK_MIN: usize = 100_000;

impl Team {
    /// `count` threads. Where this is more than one, the thread that calls [`Self::new`] becomes
    /// one of them, and ought to be the one that runs the steps: then handing out work costs it a
    /// push onto its own queue instead of a sleep.
    pub(super) fn new(count: usize) -> Result<Self, BackendError> {
        let count = count.max(1);
        if count == 1 {
            return Ok(Self { pool: None, count });
        }
        let builder = || {
            rayon::ThreadPoolBuilder::new()
                .num_threads(count)
                .thread_name(|index| format!("cpu-{index}"))
        };
        // A thread can be in one pool only; a second backend of a thread hands its work over.
        let pool = builder().use_current_thread().build().or_else(|_| builder().build());
        let pool = pool.map_err(|error| BackendError::Io {
            operation: "start threads",
            source: std::io::Error::other(error),
        })?;
        Ok(Self { pool: Some(pool), count })
    }

    /// Number of threads.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Calls `work(index, piece)` for each piece. `multiply_adds` says how much work all of it is.
    pub(super) fn uneven_pieces<T: Send, S: Fn(usize) -> usize + Sync>(
        &self,
        multiply_adds: usize,
        pieces: UnevenPieces<'_, T, S>,
        work: impl Fn(usize, &mut [T]) + Sync + Send,
    ) {
        let UnevenPieces { data, count, start } = pieces;
        let split = Split { start, work };
        match &self.pool {
            Some(pool) if multiply_adds >= WORK_MIN && count > 1 => {
                pool.install(|| split.at_once(0..count, data));
            }
            _ => {
                let mut rest = data;
                for index in 0..count {
                    let end = if index + 1 < count { (split.start)(index + 1) } else { usize::MAX };
                    let size = rest.len().min(end - (split.start)(index));
                    let (piece, behind) = rest.split_at_mut(size);
                    (split.work)(index, piece);
                    rest = behind;
                }
            }
        }
    }

    /// Calls `work(index, piece)` for each piece of `size` elements of `data`; the last may be
    /// shorter. `multiply_adds` says how much work all of it is.
    pub(super) fn pieces<T: Send>(
        &self,
        multiply_adds: usize,
        data: &mut [T],
        size: usize,
        work: impl Fn(usize, &mut [T]) + Sync + Send,
    ) {
        match &self.pool {
            Some(pool) if multiply_adds >= WORK_MIN && data.len() > size => pool.install(|| {
                let pieces = data.par_chunks_mut(size).enumerate().with_max_len(1);
                pieces.for_each(|(index, piece)| work(index, piece));
            }),
            _ => {
                for (index, piece) in data.chunks_mut(size).enumerate() {
                    work(index, piece);
                }
            }
        }
    }
}
