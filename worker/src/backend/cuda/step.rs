//! The step under way, and those that the device still works on.

use std::collections::VecDeque;
use std::sync::Arc;

use binfer_kernels::list;
use binfer_kernels::params::{ApplyParams, FinishParams, OUTPUT_VECTORS};
use binfer_proto::{Mask, Token};
use binfer_shard::spec::Rope;
use xxhash_rust::xxh3::Xxh3Default;

use super::CudaBackend;
use super::ffi::failed;
use super::ffi::launch::Event;
use super::graph;
use super::product::word;
use super::ring::{RING_SLOTS, Ring};
use super::stream_product::BegunNorm;
use crate::backend::check::check_masks;
use crate::backend::{BackendError, MemoryPlan, StepOutput, Ticket};
use crate::batch::Batch;

/// What launches cover: at least what the batch has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LaunchShape {
    pub(super) tokens: u32,
    pub(super) rows: u32,
    pub(super) outputs: u32,
    /// Every row feeds one token and draws one, so that a recording may do the step.
    pub(super) is_decode: bool,
}

/// A committed step.
struct Pending {
    ticket: Ticket,
    slot: usize,
    batch: Arc<Batch>,
    stamps: usize,
}

/// See the module.
#[derive(Default)]
pub(super) struct Step {
    pub(super) batch: Arc<Batch>,
    pub(super) shape: LaunchShape,
    pub(super) plan: MemoryPlan,
    /// Rows that decode steps are padded to.
    pub(super) buckets: Vec<usize>,
    /// The device does the whole step by itself.
    pub(super) is_replayed: bool,
    /// Masks were given, in a step that waits for some.
    pub(super) has_masks: bool,
    /// For which rope the device's table of cosines and sines holds.
    pub(super) rope: Option<Rope>,
    /// For which KV groups, with which window and tile, the device's tables of work hold.
    pub(super) attend_plans: Vec<(usize, u32, u32)>,
    /// Times that it notes, so far.
    pub(super) stamps: usize,
    /// The norm that the product before has begun.
    pub(super) begun_norm: Option<BegunNorm>,
    /// Tiles of each row that the head made statistics of; 0 where it only made logits.
    pub(super) head_parts: u32,
    pub(super) ring: Option<Ring>,
    /// One a slot of the ring.
    events: Vec<Event>,
    /// Steps written so far, and the last one committed.
    begun: u64,
    pending: VecDeque<Pending>,
}

impl Step {
    /// For the memory that was planned.
    pub(super) fn new(plan: &MemoryPlan, ring: Ring) -> Result<Self, BackendError> {
        let events = (0..RING_SLOTS).map(|_| Event::new()).collect::<Result<_, _>>()?;
        let buckets = graph::buckets(plan);
        Ok(Self { plan: plan.clone(), buckets, ring: Some(ring), events, ..Self::default() })
    }

    /// Makes `batch` the step, and its delta ready for the device.
    pub(super) fn begin(&mut self, batch: Arc<Batch>) -> Result<(), BackendError> {
        if self.pending.len() >= RING_SLOTS {
            let cause = format!("{RING_SLOTS} steps are under way, more than the ring holds");
            return Err(BackendError::Args { operation: "upload", cause });
        }
        let slot = self.slot();
        let ring = self.ring.as_mut().ok_or_else(|| failed("upload", "nothing was allocated"))?;
        ring.write(slot, &batch)?;
        self.shape = shape_of(&batch, &self.buckets);
        self.batch = batch;
        self.rope = None;
        self.attend_plans.clear();
        self.stamps = 0;
        self.begun_norm = None;
        self.head_parts = 0;
        self.is_replayed = false;
        self.has_masks = false;
        self.begun += 1;
        Ok(())
    }

    /// Gives the step that was begun last its masks: on the device it goes on.
    pub(super) fn give_masks(&mut self, masks: &[Mask]) -> Result<(), BackendError> {
        check_masks(masks, (&self.batch, self.plan.vocab), self.has_masks)?;
        let slot = self.last_slot();
        let ring = self.ring.as_mut().ok_or_else(|| failed("masks", "nothing was allocated"))?;
        ring.masks.give(slot, masks)?;
        self.has_masks = true;
        Ok(())
    }

    /// Whether no step was begun before this one.
    pub(super) fn is_first(&self) -> bool {
        self.begun <= 1
    }

    /// The ring's slot of the step that begins next; the device counts along.
    fn slot(&self) -> usize {
        usize::try_from(self.begun % RING_SLOTS as u64).unwrap_or(0)
    }

    /// The ring's slot of the step that was begun last.
    fn last_slot(&self) -> usize {
        usize::try_from(self.begun.wrapping_sub(1) % RING_SLOTS as u64).unwrap_or(0)
    }
}

/// What launches for a batch cover: a bucket for decode steps, exactly the batch otherwise.
fn shape_of(batch: &Batch, buckets: &[usize]) -> LaunchShape {
    let (tokens, rows, outputs) = (batch.tokens.len(), batch.rows.len(), batch.outputs.len());
    let is_decode =
        tokens == rows && outputs == rows && batch.rows.iter().all(|row| row.count == 1);
    let bucket = graph::bucket(rows, buckets).filter(|_| is_decode);
    match bucket {
        Some(bucket) => {
            let all = word(bucket);
            LaunchShape { tokens: all, rows: all, outputs: all, is_decode: true }
        }
        None => LaunchShape {
            tokens: word(tokens),
            rows: word(rows),
            outputs: word(outputs),
            is_decode: false,
        },
    }
}

impl CudaBackend {
    /// The step's first kernel.
    pub(super) fn launch_apply(&mut self) -> Result<(), BackendError> {
        self.launch_stamp()?;
        let Step { shape, ring: Some(ring), .. } = &self.step else {
            return Err(failed("upload", "nothing was allocated"));
        };
        let (at, offsets) = (&self.memory.at, ring.offsets);
        let params = ApplyParams {
            step: at.tables,
            ring: ring.addresses().0,
            last_tokens: at.last_tokens,
            block_tables: at.block_tables,
            ring_bytes: offsets.end as u64,
            rows_offset: offsets.rows as u64,
            outputs_offset: offsets.outputs as u64,
            updates_offset: offsets.updates as u64,
            tokens: shape.tokens,
            rows: shape.rows,
            outputs: shape.outputs,
            reserved: 0,
        };
        let threads = list::ALL[list::APPLY.index].threads;
        let vectors = shape.tokens + shape.rows + OUTPUT_VECTORS * shape.outputs;
        self.device.launch(list::APPLY, [vectors.div_ceil(threads).max(1), 1, 1], &params)
    }

    /// The step's last kernel.
    pub(super) fn launch_finish(&mut self) -> Result<(), BackendError> {
        let Step { shape, ring: Some(ring), plan, .. } = &self.step else {
            return Err(failed("commit", "nothing was allocated"));
        };
        let at = &self.memory.at;
        let params = FinishParams {
            step: at.tables,
            hidden: at.normed,
            drawn: at.drawn,
            results: ring.addresses().1,
            cols: word(plan.hidden),
            outputs_max: word(plan.outputs_max),
            ring_slots: word(RING_SLOTS),
            reserved: 0,
        };
        self.device.launch(list::FINISH, [shape.outputs.max(1), 1, 1], &params)?;
        self.launch_stamp()
    }

    /// Marks the end of the step that was begun last.
    pub(super) fn mark_end(&mut self) -> Result<Ticket, BackendError> {
        let step = &mut self.step;
        let ticket = Ticket(step.begun);
        let slot = step.last_slot();
        step.events[slot].record(&self.device.stream)?;
        let (batch, stamps) = (Arc::clone(&step.batch), step.stamps);
        step.pending.push_back(Pending { ticket, slot, batch, stamps });
        Ok(ticket)
    }

    /// Whether the device has passed a committed step.
    pub(super) fn is_passed(&self, ticket: Ticket) -> Result<bool, BackendError> {
        match self.step.pending.iter().find(|pending| pending.ticket == ticket) {
            Some(pending) => self.ranks.is_passed(&self.step.events[pending.slot]),
            None => Err(unknown(ticket)),
        }
    }

    /// Waits for the oldest step and reads its outcome.
    pub(super) fn take_outcome(&mut self, ticket: Ticket) -> Result<StepOutput, BackendError> {
        let step = &mut self.step;
        let next = step.pending.pop_front().filter(|pending| pending.ticket == ticket);
        let pending = next.ok_or_else(|| unknown(ticket))?;
        self.ranks.wait(&step.events[pending.slot])?;
        self.ranks.step_ended();
        let Some(ring) = &step.ring else { return Err(unknown(ticket)) };
        let mut hash = Xxh3Default::new();
        let outputs = &pending.batch.outputs;
        let (mut sampled, mut logprobs) = (Vec::with_capacity(outputs.len()), Vec::new());
        let results = ring.read(pending.slot, outputs.len())?;
        for (index, (output, (result, digest))) in outputs.iter().zip(results).enumerate() {
            let token = if result.finite { result.token } else { Token::MAX };
            hash.update(&digest.to_le_bytes());
            hash.update(&token.to_le_bytes());
            sampled.push(result);
            if result.finite && output.logprobs > 0 {
                logprobs.extend(ring.read_logprobs(pending.slot, index, output.logprobs)?);
            }
        }
        let stamps_ns = ring.read_stamps(pending.slot, pending.stamps)?;
        Ok(StepOutput { sampled, logprobs, digest: hash.digest(), stamps_ns })
    }
}

fn unknown(ticket: Ticket) -> BackendError {
    let cause = format!("{ticket:?} is not the next step");
    BackendError::Args { operation: "collect", cause }
}
