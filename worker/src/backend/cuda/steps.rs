//! The step under way, and those that the device still works on.

use std::collections::VecDeque;
use std::sync::Arc;

use binfer_kernels::list;
use binfer_kernels::params::{ApplyParams, FinishParams, OUTPUT_VECTORS, StampParams};
use binfer_proto::Token;
use xxhash_rust::xxh3::Xxh3Default;

use super::device::LaunchBlocks;
use super::ffi::error::failed;
use super::ffi::launch::{CudaEvent, CudaStream};
use super::launch::{LaunchShape, Launcher, to_u32};
use super::ranks::CudaRanks;
use super::ring::{RING_SLOTS, Ring};
use crate::backend::{BackendError, MemoryLayout, StepMode, StepOutcome, Ticket};
use crate::batch::Batch;

/// A committed step.
struct EnqueuedStep {
    ticket: Ticket,
    slot: usize,
    batch: Arc<Batch>,
    stamps: usize,
}

/// The step under way, and those that were committed and not yet collected.
pub(super) struct CudaSteps {
    pub(super) batch: Arc<Batch>,
    pub(super) shape: LaunchShape,
    pub(super) layout: MemoryLayout,
    /// Who does the work of the step under way.
    pub(super) mode: StepMode,
    /// Masks were given, in a step that waits for some.
    pub(super) has_masks: bool,
    /// Times that the step notes, so far.
    stamps: usize,
    ring: Option<Ring>,
    /// One a slot of the ring.
    events: Vec<CudaEvent>,
    /// Steps written so far: the number of the last one.
    begun: u64,
    pending: VecDeque<EnqueuedStep>,
}

impl CudaSteps {
    /// No step, before memory for any was planned.
    pub(super) fn none() -> Self {
        Self {
            batch: Arc::default(),
            shape: LaunchShape::NONE,
            layout: MemoryLayout::default(),
            mode: StepMode::Eager,
            has_masks: false,
            stamps: 0,
            ring: None,
            events: Vec::new(),
            begun: 0,
            pending: VecDeque::new(),
        }
    }

    /// Steps within the memory that was planned.
    pub(super) fn new(layout: &MemoryLayout, ring: Ring) -> Result<Self, BackendError> {
        let events = (0..RING_SLOTS).map(|_| CudaEvent::new()).collect::<Result<_, _>>()?;
        Ok(Self { layout: layout.clone(), ring: Some(ring), events, ..Self::none() })
    }

    /// Makes `batch` the step, and its delta ready for the device. Returns the ring's slot.
    pub(super) fn begin(
        &mut self,
        batch: Arc<Batch>,
        shape: LaunchShape,
    ) -> Result<usize, BackendError> {
        if self.pending.len() >= RING_SLOTS {
            let cause = format!("{RING_SLOTS} steps are under way, more than the ring holds");
            return Err(BackendError::Args { operation: "upload", cause });
        }
        let slot = self.next_slot();
        let ring = self.ring.as_mut().ok_or_else(|| failed("upload", "nothing was allocated"))?;
        ring.write(slot, &batch)?;
        self.begun += 1;
        self.begin_captured(batch, shape);
        Ok(slot)
    }

    /// Makes `batch` a step that is captured and not run: it takes no slot of the ring.
    pub(super) fn begin_captured(&mut self, batch: Arc<Batch>, shape: LaunchShape) {
        (self.batch, self.shape, self.mode) = (batch, shape, StepMode::Eager);
        (self.stamps, self.has_masks) = (0, false);
    }

    /// A CUDA graph does the step's work and notes so many times.
    pub(super) fn is_done_by_graph(&mut self, stamps: usize) {
        (self.mode, self.stamps) = (StepMode::Graph, stamps);
    }

    /// Whether no step was begun before this one.
    pub(super) fn is_first(&self) -> bool {
        self.begun <= 1
    }

    /// Times that the step notes, so far.
    pub(super) fn stamps(&self) -> usize {
        self.stamps
    }

    /// Host memory taken.
    pub(super) fn host_bytes(&self) -> usize {
        self.ring.as_ref().map_or(0, Ring::bytes)
    }

    /// Where the device writes logprobs.
    pub(super) fn logprobs_address(&self) -> Result<u64, BackendError> {
        Ok(self.ring("sample")?.logprobs_address())
    }

    fn ring(&self, operation: &'static str) -> Result<&Ring, BackendError> {
        self.ring.as_ref().ok_or_else(|| failed(operation, "nothing was allocated"))
    }

    /// The ring's slot of the step that begins next; the device counts along.
    fn next_slot(&self) -> usize {
        usize::try_from(self.begun % RING_SLOTS as u64).unwrap_or(0)
    }

    /// The ring's slot of the step that was begun last.
    pub(super) fn last_slot(&self) -> usize {
        usize::try_from(self.begun.wrapping_sub(1) % RING_SLOTS as u64).unwrap_or(0)
    }

    /// Enqueues the step's first kernel.
    pub(super) fn launch_apply(&mut self, on: &Launcher<'_>) -> Result<(), BackendError> {
        self.launch_stamp(on)?;
        let ring = self.ring("upload")?;
        let (places, shape, offsets) = (on.places, on.shape, ring.offsets);
        let params = ApplyParams {
            step: places.tables,
            ring: ring.addresses().0,
            last_tokens: places.last_tokens,
            block_tables: places.block_tables,
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
        on.device.launch(list::APPLY, [vectors.div_ceil(threads).max(1), 1, 1], &params)
    }

    /// Enqueues the step's last kernel, which reads normed hidden states and sampled tokens.
    pub(super) fn launch_finish(
        &mut self,
        on: &Launcher<'_>,
        (hidden, sampled): (u64, u64),
    ) -> Result<(), BackendError> {
        let params = FinishParams {
            step: on.places.tables,
            hidden,
            sampled,
            results: self.ring("commit")?.addresses().1,
            cols: to_u32(self.layout.hidden),
            outputs_max: to_u32(self.layout.outputs_max),
            ring_slots: to_u32(RING_SLOTS),
            reserved: 0,
        };
        on.device.launch(list::FINISH, [on.shape.outputs.max(1), 1, 1], &params)?;
        self.launch_stamp(on)
    }

    /// Enqueues the step's next stamp, if stamps were planned: a kernel of one thread that writes
    /// the device's clock into mapped memory. It works in CUDA graphs as it does elsewhere, and two
    /// steps under way do not share a slot.
    pub(super) fn launch_stamp(&mut self, on: &Launcher<'_>) -> Result<(), BackendError> {
        let places = self.layout.stamps_max;
        if places == 0 {
            return Ok(());
        }
        let place = self.stamps;
        if place == places {
            return Err(failed("stamp", format!("a step notes {places} times at most")));
        }
        let params = StampParams {
            state: on.places.tables.state,
            out: self.ring.as_ref().map_or(0, Ring::stamps_address),
            place: to_u32(place),
            places: to_u32(places),
            is_first: u32::from(place == 0),
            reserved: 0,
        };
        self.stamps += 1;
        on.device.launch_blocks(
            list::STAMP,
            LaunchBlocks { after_all: true, ..LaunchBlocks::default() },
            &params,
        )
    }

    /// Marks the end of the step that was begun last.
    pub(super) fn mark_end(&mut self, stream: &CudaStream) -> Result<Ticket, BackendError> {
        let ticket = Ticket(self.begun);
        let slot = self.last_slot();
        self.events[slot].record(stream)?;
        let (batch, stamps) = (Arc::clone(&self.batch), self.stamps);
        self.pending.push_back(EnqueuedStep { ticket, slot, batch, stamps });
        Ok(ticket)
    }

    /// Whether the device has passed a committed step.
    pub(super) fn is_passed(
        &self,
        ticket: Ticket,
        ranks: &CudaRanks,
    ) -> Result<bool, BackendError> {
        match self.pending.iter().find(|pending| pending.ticket == ticket) {
            Some(pending) => ranks.is_passed(&self.events[pending.slot]),
            None => Err(unknown(ticket)),
        }
    }

    /// Waits for the oldest step and reads its outcome.
    pub(super) fn take_outcome(
        &mut self,
        ticket: Ticket,
        ranks: &CudaRanks,
    ) -> Result<StepOutcome, BackendError> {
        let next = self.pending.pop_front().filter(|pending| pending.ticket == ticket);
        let pending = next.ok_or_else(|| unknown(ticket))?;
        ranks.wait(&self.events[pending.slot])?;
        ranks.step_ended();
        let Some(ring) = &self.ring else { return Err(unknown(ticket)) };
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
        Ok(StepOutcome { sampled, logprobs, digest: hash.digest(), stamps_ns })
    }
}

fn unknown(ticket: Ticket) -> BackendError {
    let cause = format!("{ticket:?} is not the next step");
    BackendError::Args { operation: "collect", cause }
}
