//! A CPU as a device: its parts, and how weights get into it.

use binfer_proto::{KvDtype, Token};
use binfer_shard::spec::TensorCut;
use binfer_shard::{LocalPart, LocalTensor};

use super::block_tables::BlockTables;
use super::cache::CpuLayerCache;
use super::matrix::{CheckpointRows, PackedMatrix};
use super::ranks::CpuRanks;
use super::sample::Sampler;
use super::simd::Level;
use super::step::CpuStep;
use super::threads::Team;
use super::weights::Loaded;
use super::workspace::Workspace;
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
        let mut packed = Vec::with_capacity(tensor.parts.len());
        for (part, bytes) in tensor.parts.iter().zip(bytes) {
            // A head is a part by itself, so that heads can be multiplied one by one.
            let rows = match tensor.cut {
                TensorCut::HeadRows(each) if each > 1 => each.min(part.rows),
                _ => part.rows,
            };
            let row_bytes = bytes.len() / part.rows.max(1) as usize;
            for bytes in bytes.chunks((rows as usize * row_bytes).max(1)) {
                let rows = bytes.len() / row_bytes.max(1);
                packed.push(CheckpointRows { dtype: part.dtype, rows, bytes });
            }
        }
        let inputs = first.inputs.start as usize..first.inputs.end as usize;
        let matrix = PackedMatrix::from_packed(first.cols as usize, inputs, &packed)?;
        let matrix = match tensor.cut {
            TensorCut::Experts(each) => {
                matrix.stacked(tensor.parts.len() / (each as usize).max(1))?
            }
            TensorCut::HeadRows(each) if each > 1 => {
                matrix.stacked((tensor.rows() / each) as usize)?
            }
            _ => matrix,
        };
        self.keep(Loaded::new(matrix, tensor.cut))
    }
}
