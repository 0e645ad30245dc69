//! A CPU as a device: its parts, and how weights get into it.

use binfer_proto::{KvDtype, Token};
use binfer_shard::{LocalPart, LocalTensor};

use super::attend::AttendScratch;
use super::block_tables::BlockTables;
use super::cache::CpuLayerCache;
use super::matrix::{CheckpointRows, PackedMatrix};
use super::panel::Panel;
use super::ranks::CpuRanks;
use super::sample::Sampler;
use super::simd::{Lanes, Level};
use super::step::CpuStep;
use super::threads::Team;
use super::weights::Loaded;
use crate::backend::check::StepShape;
use crate::backend::{BackendError, MemoryLayout, Weight};

/// How a CPU backend works.
#[derive(Clone, Copy, Debug)]
pub struct CpuSettings {
    /// Threads of this rank.
    pub threads: usize,
    /// How the cache keeps keys and values.
    pub kv_dtype: KvDtype,
    /// Instruction set of the kernels.
    pub level: Level,
}

impl CpuSettings {
    /// `threads` threads, cache in single precision, the best instruction set.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { threads, kv_dtype: KvDtype::F32, level: Level::best() }
    }
}

/// A CPU as a device.
pub struct CpuBackend {
    pub(super) settings: CpuSettings,
    pub(super) team: Team,
    pub(super) ranks: CpuRanks,
    pub(super) weights: Vec<Loaded>,
    pub(super) layout: MemoryLayout,
    pub(super) arena: Vec<f32>,
    pub(super) caches: Vec<CpuLayerCache>,
    pub(super) tables: BlockTables,
    /// Last sampled token of each slot.
    pub(super) last_tokens: Vec<Token>,
    pub(super) sampler: Sampler,
    pub(super) work: Workspace,
    pub(super) step: CpuStep,
}

/// Memory that operations use and leave.
#[derive(Default)]
pub(super) struct Workspace {
    pub(super) panel: Panel,
    pub(super) scratch: Vec<Lanes>,
    /// Partial sums on their way to the other ranks.
    pub(super) exchanged: Vec<f32>,
    pub(super) attend_scratch: AttendScratch,
}

impl CpuBackend {
    /// A backend without weights, of a rank alone until it joins others. The calling thread should
    /// be the one that will run the steps, see `threads.rs`.
    pub fn new(settings: CpuSettings) -> Result<Self, BackendError> {
        Ok(Self {
            settings,
            team: Team::new(settings.threads)?,
            ranks: CpuRanks::default(),
            weights: Vec::new(),
            layout: MemoryLayout::default(),
            arena: Vec::new(),
            caches: Vec::new(),
            tables: BlockTables::default(),
            last_tokens: Vec::new(),
            sampler: Sampler::default(),
            work: Workspace::default(),
            step: CpuStep::default(),
        })
    }

    pub(super) fn keep(&mut self, loaded: Loaded) -> Result<Weight, BackendError> {
        let index = u32::try_from(self.weights.len()).map_err(|_| BackendError::Args {
            operation: "load",
            cause: "too many weights".to_owned(),
        })?;
        self.weights.push(loaded);
        Ok(Weight(index))
    }

    pub(super) fn step_shape(&self) -> StepShape {
        StepShape {
            arena: self.arena.len(),
            tokens: self.step.batch.tokens.len(),
            outputs: self.step.batch.outputs.len(),
            vocab: self.layout.vocab,
        }
    }

    /// Repacks a rank's share of a tensor out of its parts' bytes.
    pub(super) fn pack(
        &mut self,
        tensor: &LocalTensor,
        bytes: &[Vec<u8>],
    ) -> Result<Weight, BackendError> {
        let refuse = |cause: &str| BackendError::Args {
            operation: "load",
            cause: format!("{}: {cause}", tensor.name),
        };
        let first = tensor.parts.first().ok_or_else(|| refuse("no parts"))?;
        let same = |part: &LocalPart| (part.cols, &part.inputs) == (first.cols, &first.inputs);
        if !tensor.parts.iter().all(same) {
            return Err(refuse("parts differ in columns"));
        }
        let packed: Vec<CheckpointRows<'_>> = tensor
            .parts
            .iter()
            .zip(bytes)
            .map(|(part, bytes)| CheckpointRows {
                dtype: part.dtype,
                rows: part.rows as usize,
                bytes,
            })
            .collect();
        let inputs = first.inputs.start as usize..first.inputs.end as usize;
        let matrix = PackedMatrix::from_packed(first.cols as usize, inputs, &packed)?;
        self.keep(Loaded::new(matrix))
    }
}
