//! The CPU backend: every operation composed of small functions, in single precision.
//!
//! | file | is |
//! |---|---|
//! | `ops.rs` | the operations of the trait, in terms of what follows |
//! | `gemm.rs`, `microkernel.rs`, `panel.rs`, `inputs.rs` | gemm: tiles and epilogues, microkernel, inputs |
//! | `matrix.rs`, `blocks/` | weights: bands of rows, and a file for each packed format |
//! | `attend.rs`, `attention.rs`, `rope.rs` | attention |
//! | `cache.rs`, `block_tables.rs` | the cache, and which block of it holds what |
//! | `sample.rs` | sampling |
//! | `ranks.rs`, `shm.rs` | collectives over shared memory |
//! | `step.rs` | the step under way, and its digest |
//! | `threads.rs`, `simd.rs`, `math.rs` | threads, instruction sets, elementary functions |
//!
//! Weights stay as packed as they came. No order of summation depends on the batch, on chunking,
//! on threads or on block size, so a token's result has the same bits in any company.

mod attend;
mod attention;
mod block_tables;
mod blocks;
mod cache;
mod gemm;
mod inputs;
mod math;
mod matrix;
mod microkernel;
mod ops;
mod panel;
mod random_weights;
mod ranks;
mod rope;
pub mod sample;
pub mod shm;
mod simd;
mod step;
#[cfg(test)]
mod tests;
mod threads;

use binfer_proto::Token;
use binfer_shard::{LocalPart, LocalTensor};

use super::check::{StepShape, WeightShape};
use super::{BackendError, MemoryPlan, Weight};
use attend::AttendScratch;
pub use binfer_proto::KvDtype;
use block_tables::BlockTables;
use cache::LayerCache;
use matrix::{CheckpointRows, Matrix};
use panel::Panel;
use ranks::Ranks;
use sample::Sampler;
use simd::Lanes;
pub use simd::Level;
use step::Step;
use threads::Team;

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
    settings: CpuSettings,
    team: Team,
    ranks: Ranks,
    weights: Vec<Loaded>,
    plan: MemoryPlan,
    arena: Vec<f32>,
    caches: Vec<LayerCache>,
    tables: BlockTables,
    /// Last sampled token of each slot.
    last_tokens: Vec<Token>,
    sampler: Sampler,
    work: Work,
    step: Step,
}

/// A weight as the operations want it.
enum Loaded {
    /// One row, or one column: the scale of a norm, a bias.
    Vector(Vec<f32>),
    Matrix(Matrix),
}

/// Memory that operations use and leave.
#[derive(Default)]
struct Work {
    panel: Panel,
    scratch: Vec<Lanes>,
    /// Partial sums on their way to the other ranks.
    exchanged: Vec<f32>,
    attend_scratch: AttendScratch,
}

impl CpuBackend {
    /// A backend without weights, of a rank alone until it joins others. The calling thread should
    /// be the one that will run the steps, see `threads.rs`.
    pub fn new(settings: CpuSettings) -> Result<Self, BackendError> {
        Ok(Self {
            settings,
            team: Team::new(settings.threads)?,
            ranks: Ranks::default(),
            weights: Vec::new(),
            plan: MemoryPlan::default(),
            arena: Vec::new(),
            caches: Vec::new(),
            tables: BlockTables::default(),
            last_tokens: Vec::new(),
            sampler: Sampler::default(),
            work: Work::default(),
            step: Step::default(),
        })
    }

    fn keep(&mut self, loaded: Loaded) -> Result<Weight, BackendError> {
        let index = u32::try_from(self.weights.len()).map_err(|_| BackendError::Args {
            operation: "load",
            cause: "too many weights".to_owned(),
        })?;
        self.weights.push(loaded);
        Ok(Weight(index))
    }

    fn step_shape(&self) -> StepShape {
        StepShape {
            arena: self.arena.len(),
            tokens: self.step.batch.tokens.len(),
            outputs: self.step.batch.outputs.len(),
            vocab: self.plan.vocab,
        }
    }

    /// Repacks a rank's share of a tensor out of its parts' bytes.
    fn pack(&mut self, tensor: &LocalTensor, bytes: &[Vec<u8>]) -> Result<Weight, BackendError> {
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
        let matrix = Matrix::from_packed(first.cols as usize, inputs, &packed)?;
        self.keep(Loaded::new(matrix))
    }
}

impl Loaded {
    fn new(matrix: Matrix) -> Self {
        if matrix.rows() != 1 && matrix.cols() != 1 {
            return Self::Matrix(matrix);
        }
        let mut vector = vec![0.0; matrix.rows() * matrix.cols()];
        for (row, out) in vector.chunks_mut(matrix.cols().max(1)).enumerate() {
            matrix.read_row(row, out);
        }
        Self::Vector(vector)
    }

    fn shape(&self) -> WeightShape {
        match self {
            Self::Vector(vector) => WeightShape::of_vector(vector),
            Self::Matrix(matrix) => {
                WeightShape { rows: matrix.rows(), cols: matrix.inputs().len() }
            }
        }
    }
}

/// The weight behind a handle.
fn loaded<'a>(
    weights: &'a [Loaded],
    operation: &'static str,
    weight: Weight,
) -> Result<&'a Loaded, BackendError> {
    let refuse = || BackendError::Args { operation, cause: format!("{weight:?} was never loaded") };
    weights.get(weight.0 as usize).ok_or_else(refuse)
}

/// The matrix behind a handle.
fn matrix<'a>(
    weights: &'a [Loaded],
    operation: &'static str,
    weight: Weight,
) -> Result<&'a Matrix, BackendError> {
    match loaded(weights, operation, weight)? {
        Loaded::Matrix(matrix) => Ok(matrix),
        Loaded::Vector(_) => {
            let cause = format!("{weight:?} is a vector, not a matrix");
            Err(BackendError::Args { operation, cause })
        }
    }
}

/// The vector behind a handle.
fn vector<'a>(
    weights: &'a [Loaded],
    operation: &'static str,
    weight: Weight,
) -> Result<&'a [f32], BackendError> {
    match loaded(weights, operation, weight)? {
        Loaded::Vector(vector) => Ok(vector),
        Loaded::Matrix(_) => {
            let cause = format!("{weight:?} is a matrix, not a vector");
            Err(BackendError::Args { operation, cause })
        }
    }
}

/// The vector behind a handle that an operation may lack.
fn optional<'a>(
    weights: &'a [Loaded],
    operation: &'static str,
    weight: Option<Weight>,
) -> Result<Option<&'a [f32]>, BackendError> {
    weight.map(|weight| vector(weights, operation, weight)).transpose()
}
