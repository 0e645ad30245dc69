//! The other ranks: joining them, and collectives in the backend's own errors.
//!
//! A rank alone has no communicator, and its collectives are the identity.

use std::thread::available_parallelism;

use super::shm::{CommError, CommId, ShmComm, Wait};
use crate::backend::{Abort, BackendError};

/// This rank's way to the others.
#[derive(Default)]
pub(super) struct CpuRanks {
    /// Made by rank 0, not joined yet.
    made: Option<ShmComm>,
    comm: Option<ShmComm>,
    /// Rows of the head on each rank; empty until the first head.
    head_rows: Vec<usize>,
}

impl CpuRanks {
    /// Makes a communicator for `world` ranks of `threads` threads.
    pub(super) fn make(&mut self, world: usize, threads: usize) -> Result<Vec<u8>, BackendError> {
        let made = ShmComm::create(world, wait(world, threads));
        let (comm, id) = made.map_err(|error| failed("comm_id", error))?;
        self.made = Some(comm);
        Ok(id.as_bytes().to_vec())
    }

    /// Joins the communicator of that id; the rank that made it just takes it.
    pub(super) fn join(
        &mut self,
        id: &[u8],
        (rank, world): (usize, usize),
        threads: usize,
    ) -> Result<Abort, BackendError> {
        let join = || ShmComm::join(&CommId::from_bytes(id)?, rank, world, wait(world, threads));
        let comm = match self.made.take() {
            Some(comm) if rank == 0 => comm,
            _ => join().map_err(|error| failed("join", error))?,
        };
        let abort = comm.abort_handle();
        self.comm = Some(comm);
        self.head_rows.clear();
        Ok(Box::new(move || abort.abort()))
    }

    /// Says whether there are other ranks.
    pub(super) fn are_several(&self) -> bool {
        self.comm.is_some()
    }

    /// `x` = the sum of all ranks' `x`.
    pub(super) fn sum(
        &mut self,
        operation: &'static str,
        x: &mut [f32],
    ) -> Result<(), BackendError> {
        let Some(comm) = &mut self.comm else { return Ok(()) };
        comm.all_reduce(x).map_err(|error| failed(operation, error))
    }

    /// `logits`, `[outputs, vocab]`, of all ranks' `mine`, `[outputs, rows]`.
    pub(super) fn gather_logits(
        &mut self,
        mine: &[f32],
        outputs: usize,
        logits: &mut [f32],
    ) -> Result<(), BackendError> {
        let Some(comm) = &mut self.comm else {
            logits.copy_from_slice(mine);
            return Ok(());
        };
        if self.head_rows.is_empty() {
            // Ranks tell each other how they share the vocabulary, in the bits of floats.
            let ones = vec![1; comm.world()];
            let mut rows = vec![0.0; comm.world()];
            let my_rows = u32::try_from(mine.len() / outputs).unwrap_or(u32::MAX);
            comm.all_gather(&[f32::from_bits(my_rows)], &ones, &mut rows)
                .map_err(|error| failed("head", error))?;
            self.head_rows = rows.iter().map(|rows| rows.to_bits() as usize).collect();
        }
        comm.all_gather_rows(mine, outputs, &self.head_rows, logits)
            .map_err(|error| failed("head", error))
    }
}

fn wait(world: usize, threads: usize) -> Wait {
    Wait::suiting(world, threads, available_parallelism().map_or(1, usize::from))
}

fn failed(operation: &'static str, error: CommError) -> BackendError {
    match error {
        CommError::Aborted => BackendError::Aborted { operation },
        CommError::Io { source, .. } => BackendError::Io { operation, source },
        other => BackendError::Args { operation, cause: other.to_string() },
    }
}
