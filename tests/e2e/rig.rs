//! Ranks without a coordinator: plans by hand, logits to look at.
//!
//! The same slot table, decoder loop and backend as a worker's engine, in the same order.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use binfer_proto::{
    BlockId, Epoch, Input, KvGroup, NewBlocks, Open, Outputs, Plan, PlanLimits, ReplicaId, Row,
    Rows, Sampling, SlotId, StepId, Token,
};
use binfer_shard::{Checkpoint, layouts};
use binfer_worker::backend::cpu::{CpuBackend, CpuSettings, KvDtype};
use binfer_worker::backend::{Abort, Backend, RankDevice};
use binfer_worker::forward;
use binfer_worker::layers::Layer;
use binfer_worker::memory::{self, Activations, StepLimits};
use binfer_worker::model::{self, Model};
use binfer_worker::progress::StepProgress;
use binfer_worker::slots::SlotTable;

use crate::harness::model_path;

const SLOTS: u32 = 8;
/// Input tokens of a step at most.
pub(crate) const TOKENS_PER_STEP: usize = 512;
const BLOCKS: u32 = 40;
const CONTEXT: u32 = 2048;

/// One rank of a model.
pub(crate) struct Rig {
    backend: CpuBackend,
    model: Model,
    activations: Activations,
    slots: SlotTable,
    step: StepId,
    kv_groups: Vec<Pool>,
    sequences: Vec<Option<Sequence>>,
    closing: Vec<SlotId>,
    abort: Option<Abort>,
}

/// A rank that fails must not leave the others waiting.
impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(abort) = self.abort.take_if(|_| thread::panicking()) {
            abort();
        }
    }
}

/// The blocks of a KV group.
struct Pool {
    block_tokens: usize,
    /// Blocks of no sequence; taken from the end.
    free: Vec<BlockId>,
}

/// What a slot holds.
struct Sequence {
    len: usize,
    /// By KV group. Those behind a window are kept.
    blocks: Vec<Vec<BlockId>>,
}

/// A row of a step: a slot, and its tokens or none for its last sample.
pub(crate) type Feed<'a> = (u32, Option<&'a [Token]>);

/// Gives a rank the name of its communicator; rank 0 makes it.
type Join<'a> = &'a dyn Fn(&mut CpuBackend) -> Vec<u8>;

/// Runs the same on each of `world` ranks of the demo model.
pub(crate) fn on_ranks<T: Send>(world: usize, test: impl Fn(&mut Rig) -> T + Sync) -> T {
    on_ranks_of(&model_path(), world, test)
}

/// Runs the same on each of `world` ranks, one a thread; what rank 0 comes to.
pub(crate) fn on_ranks_of<T: Send>(
    path: &Path,
    world: usize,
    test: impl Fn(&mut Rig) -> T + Sync,
) -> T {
    thread::scope(|scope| {
        let (tell, hear): (Vec<_>, Vec<_>) = (1..world).map(|_| mpsc::channel()).unzip();
        let test = &test;
        let first = scope.spawn(move || {
            let join = |backend: &mut CpuBackend| {
                let id = backend.comm_id(world).unwrap();
                tell.iter().for_each(|tell| tell.send(id.clone()).unwrap());
                id
            };
            test(&mut Rig::of_rank(path, KvDtype::F32, (0, world), &join))
        });
        for (rank, hear) in (1..world).zip(hear) {
            scope.spawn(move || {
                let join = |_: &mut CpuBackend| hear.recv().unwrap();
                test(&mut Rig::of_rank(path, KvDtype::F32, (rank, world), &join));
            });
        }
        first.join().unwrap()
    })
}

impl Rig {
    /// The whole demo model on two threads.
    pub(crate) fn new(kv_dtype: KvDtype) -> Self {
        Self::of_rank(&model_path(), kv_dtype, (0, 1), &|_| Vec::new())
    }

    /// Makes it the rank of a server whose sequences have up to so many positions.
    pub(crate) fn limit_positions(&mut self, positions: Option<u32>) {
        self.model.limit_positions(positions.unwrap_or(CONTEXT));
    }

    /// Layers of the model, to be tampered with.
    pub(crate) fn layers(&mut self) -> &mut [Layer] {
        &mut self.model.layers
    }

    fn of_rank(
        path: &Path,
        kv_dtype: KvDtype,
        (rank, world): (usize, usize),
        join: Join<'_>,
    ) -> Self {
        let source = Checkpoint::open(path).unwrap();
        let spec = source.spec();
        let layout = layouts(spec, u32::try_from(world).unwrap()).unwrap().remove(rank);
        let settings = CpuSettings { kv_dtype, ..CpuSettings::new(2usize.div_ceil(world)) };
        let mut backend = CpuBackend::new(settings).unwrap();
        let abort = (world > 1).then(|| {
            let id = join(&mut backend);
            backend.join(&id, rank, world).unwrap()
        });
        let tensors = source.local_tensors(&layout).unwrap();
        let weights = backend.load(&source, &tensors, &mut |_| ()).unwrap();
        let model = model::assemble(spec, &layout, &tensors, &weights).unwrap();
        let limits = StepLimits {
            slots_max: SLOTS,
            tokens_per_step_max: u32::try_from(TOKENS_PER_STEP).unwrap(),
            context_max: CONTEXT,
        };
        let activations = Activations::new(spec, &layout, limits);
        let blocks = vec![BLOCKS; spec.kv_groups.len()];
        let memory = memory::lay_out(spec, &layout, limits, &blocks).unwrap();
        backend.allocate(&memory).unwrap();
        let plan_limits = PlanLimits {
            slots_max: SLOTS,
            tokens_per_step_max: limits.tokens_per_step_max,
            vocab: spec.vocab,
            blocks,
        };
        let block_tokens: Vec<u32> = spec.kv_groups.iter().map(|of| of.block_tokens).collect();
        let pool = |block_tokens: &u32| Pool {
            block_tokens: *block_tokens as usize,
            free: (0..BLOCKS).map(BlockId).collect(),
        };
        let kv_groups = block_tokens.iter().map(pool).collect();
        let identity = (ReplicaId(0), Epoch(1));
        Self {
            slots: SlotTable::new(identity, plan_limits, CONTEXT, block_tokens),
            backend,
            model,
            activations,
            step: StepId(1),
            kv_groups,
            sequences: (0..SLOTS).map(|_| None).collect(),
            closing: Vec::new(),
            abort,
        }
    }

    /// Runs one step; logits and greedy token at the last position of each row.
    pub(crate) fn step(&mut self, rows: &[Feed<'_>]) -> Vec<(Vec<f32>, Token)> {
        let plan = self.plan(rows);
        let batch = Arc::new(self.slots.apply(&plan).unwrap().batch);
        let progress = StepProgress::default();
        let (model, activations) = (&self.model, &self.activations);
        let backend = &mut self.backend;
        backend.upload(Arc::clone(&batch)).unwrap();
        forward::forward(model, &batch, activations, backend, &progress).unwrap();
        let logits = backend.read(activations.logits.with_rows(rows.len())).unwrap();
        forward::sample(&batch, activations, backend, &progress).unwrap();
        let ticket = backend.commit().unwrap();
        let sampled = backend.collect(ticket).unwrap().sampled;
        let logits = logits.chunks(model.vocab).map(<[f32]>::to_vec);
        logits.zip(sampled).map(|(logits, sampled)| (logits, sampled.token)).collect()
    }

    /// Feeds `tokens` to `slot`, `chunk` at a time; logits and greedy token at the end.
    pub(crate) fn feed(&mut self, slot: u32, tokens: &[Token], chunk: usize) -> (Vec<f32>, Token) {
        let chunks = tokens.chunks(chunk).map(|chunk| self.step(&[(slot, Some(chunk))]).remove(0));
        chunks.last().unwrap()
    }

    /// Ends a sequence. Its blocks go to the next ones as they are.
    pub(crate) fn close(&mut self, slot: u32) {
        let sequence = self.sequences[slot as usize].take().unwrap();
        for (pool, blocks) in self.kv_groups.iter_mut().zip(sequence.blocks) {
            pool.free.extend(blocks);
        }
        self.closing.push(SlotId(slot));
    }

    /// Blocks are given out in another order from now on.
    pub(crate) fn shuffle(&mut self) {
        for Pool { free, .. } in &mut self.kv_groups {
            free.reverse();
            let middle = free.len() / 3;
            free.rotate_left(middle);
        }
    }

    fn plan(&mut self, rows: &[Feed<'_>]) -> Plan {
        let (mut open, mut blocks) = (Vec::new(), Vec::new());
        let rows = rows.iter().map(|row| self.row(*row, &mut open, &mut blocks)).collect();
        let plan = Plan {
            replica: ReplicaId(0),
            epoch: Epoch(1),
            step: self.step,
            close: std::mem::take(&mut self.closing),
            open,
            blocks,
            rows: Rows::List(rows),
            masked: false,
        };
        self.step = self.step.next();
        plan
    }

    fn row(&mut self, row: Feed<'_>, open: &mut Vec<Open>, new_blocks: &mut Vec<NewBlocks>) -> Row {
        let (number, tokens) = row;
        let slot = SlotId(number);
        let sequence = self.sequences[slot.index()].get_or_insert_with(|| {
            open.push(Open {
                slot,
                sampling: Sampling::GREEDY,
                seed: 0,
                choice: 0,
                prompt_len: 1,
                history: Vec::new(),
                biases: Vec::new(),
            });
            Sequence { len: 0, blocks: vec![Vec::new(); self.kv_groups.len()] }
        });
        let start = u32::try_from(sequence.len).unwrap();
        sequence.len += tokens.map_or(1, <[Token]>::len);
        let pools = self.kv_groups.iter_mut().zip(&mut sequence.blocks);
        for (kv_group, (pool, blocks)) in (0..).zip(pools) {
            let missing = sequence.len.div_ceil(pool.block_tokens) - blocks.len();
            if missing > 0 {
                let kept = pool.free.len() - missing;
                let ids: Vec<BlockId> = pool.free.drain(kept..).rev().collect();
                blocks.extend(&ids);
                new_blocks.push(NewBlocks { slot, kv_group: KvGroup(kv_group), ids });
            }
        }
        Row {
            slot,
            input: tokens.map_or(Input::LastSample, |tokens| Input::Tokens(tokens.to_vec())),
            start,
            outputs: Outputs::Last,
            logprobs: 0,
        }
    }
}
