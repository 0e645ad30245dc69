//! The way between host and device: a ring of slots in mapped memory, one a step.
//!
//! Down goes a step's delta: tokens, rows, outputs, and what changes in block tables; up come
//! tokens, digests and logprobs. A slot is written again four steps later; a step that would need
//! one whose step is not collected is refused.

use binfer_kernels::params::{
    MASKED, PENALISED, StepHeader, StepInput, StepOutput, StepResult, StepRow, TableUpdate,
};
use binfer_kernels::sample_params::{LOGPROBS_MAX, Logprob as LogprobTwin};
use binfer_proto::{Logprob, Sampling};

use super::attention::cache::GroupTables;
use super::ffi::error::failed;
use super::ffi::memory::PinnedBuffer;
use super::launch::to_u32;
use crate::backend::{BackendError, MemoryLayout, Sampled, penalties};
use crate::batch::{Batch, BatchOutput, TokenInput};

/// Slots of the ring. Two steps are under way at most.
pub(super) const RING_SLOTS: usize = 4;
/// Bytes of a stamp.
const STAMP_BYTES: usize = size_of::<u64>();
/// Bytes of one output's logprobs.
const LOGPROB_BYTES: usize = LOGPROBS_MAX * size_of::<LogprobTwin>();

/// Byte offsets within a slot; inputs follow the header.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Offsets {
    pub(super) rows: usize,
    pub(super) outputs: usize,
    pub(super) updates: usize,
    /// Where the next slot begins.
    pub(super) end: usize,
}

/// The rings of both directions: deltas to the device, outcomes back.
pub(super) struct Ring {
    deltas: PinnedBuffer,
    results: PinnedBuffer,
    /// `u64 [slot][stamps_max]`.
    stamps: PinnedBuffer,
    stamps_max: usize,
    logprobs: PinnedBuffer,
    pub(super) offsets: Offsets,
    outputs_max: usize,
    rows_max: usize,
    tables: Vec<GroupTables>,
    bytes: Vec<u8>,
}

impl Ring {
    pub(super) fn new(layout: &MemoryLayout, tables: &[GroupTables]) -> Result<Self, BackendError> {
        let entries: usize = tables.iter().map(|t| t.blocks_per_slot * layout.slots_max).sum();
        let inputs = size_of::<StepHeader>() + size_of::<StepInput>() * layout.tokens_max;
        let rows = inputs.next_multiple_of(16);
        let outputs = rows + size_of::<StepRow>() * layout.slots_max;
        let updates = outputs + size_of::<StepOutput>() * layout.outputs_max;
        let end = (updates + size_of::<TableUpdate>() * entries).next_multiple_of(256);
        let result_bytes = size_of::<StepResult>() * layout.outputs_max;
        Ok(Self {
            deltas: PinnedBuffer::new(RING_SLOTS * end)?,
            results: PinnedBuffer::new(RING_SLOTS * result_bytes)?,
            stamps: PinnedBuffer::new(RING_SLOTS * layout.stamps_max * STAMP_BYTES)?,
            stamps_max: layout.stamps_max,
            logprobs: PinnedBuffer::new(RING_SLOTS * layout.outputs_max * LOGPROB_BYTES)?,
            offsets: Offsets { rows, outputs, updates, end },
            outputs_max: layout.outputs_max,
            rows_max: layout.slots_max,
            tables: tables.to_vec(),
            bytes: Vec::new(),
        })
    }

    /// Where the device reads deltas and writes results.
    pub(super) fn addresses(&self) -> (u64, u64) {
        (self.deltas.address(), self.results.address())
    }

    /// Where the device writes stamps.
    pub(super) fn stamps_address(&self) -> u64 {
        self.stamps.address()
    }

    /// Where the device writes logprobs.
    pub(super) fn logprobs_address(&self) -> u64 {
        self.logprobs.address()
    }

    /// Host memory taken.
    pub(super) fn bytes(&self) -> usize {
        let buffers = [&self.deltas, &self.results, &self.logprobs, &self.stamps];
        buffers.iter().map(|buffer| buffer.bytes()).sum::<usize>()
    }

    /// Writes a step's delta into a slot.
    pub(super) fn write(&mut self, slot: usize, batch: &Batch) -> Result<(), BackendError> {
        if batch.rows.len() > self.rows_max {
            let cause = format!("{} rows, {} at most", batch.rows.len(), self.rows_max);
            return Err(BackendError::Args { operation: "upload", cause });
        }
        let base = slot * self.offsets.end;
        let updates = self.write_updates(base, batch)?;
        let decode = batch.rows.iter().take_while(|row| row.count == 1).count();
        let counts = [batch.tokens.len(), batch.rows.len(), decode, batch.outputs.len(), updates];
        self.bytes.clear();
        counts.iter().for_each(|count| put(&mut self.bytes, to_u32(*count)));
        self.bytes.resize(size_of::<StepHeader>(), 0);
        for (index, row) in batch.rows.iter().enumerate() {
            for token in row.first..row.first + row.count {
                let id = match batch.tokens[token] {
                    TokenInput::Known(id) => id,
                    TokenInput::LastSample(slot) => !slot.0,
                };
                [id, batch.positions[token], to_u32(index), 0]
                    .iter()
                    .for_each(|word| put(&mut self.bytes, *word));
            }
        }
        self.deltas.store(base, &self.bytes)?;
        self.bytes.clear();
        for row in &batch.rows {
            [to_u32(row.first), to_u32(row.count), to_u32(row.start), row.slot.0]
                .iter()
                .for_each(|word| put(&mut self.bytes, *word));
        }
        self.deltas.store(base + self.offsets.rows, &self.bytes)?;
        self.bytes.clear();
        let masked = if batch.masked { MASKED } else { 0 };
        batch.outputs.iter().for_each(|output| put_output(&mut self.bytes, output, masked));
        self.deltas.store(base + self.offsets.outputs, &self.bytes)
    }

    /// Writes what changed in block tables; returns how many entries.
    fn write_updates(&mut self, base: usize, batch: &Batch) -> Result<usize, BackendError> {
        self.bytes.clear();
        for blocks in &batch.new_blocks {
            let table = self.tables.get(blocks.kv_group);
            let table = table.ok_or_else(|| failed("upload", format!("{blocks:?}: no table")))?;
            let first = table.first + blocks.slot.index() * table.blocks_per_slot + blocks.first;
            for (index, block) in blocks.ids.iter().enumerate() {
                put(&mut self.bytes, to_u32(first + index));
                put(&mut self.bytes, block.0);
            }
        }
        self.deltas.store(base + self.offsets.updates, &self.bytes)?;
        Ok(self.bytes.len() / size_of::<TableUpdate>())
    }

    /// What a step's outputs came to, with the digest of each. The step must be over.
    pub(super) fn read(
        &self,
        slot: usize,
        outputs: usize,
    ) -> Result<Vec<(Sampled, u64)>, BackendError> {
        let first = slot * self.outputs_max * size_of::<StepResult>();
        let bytes = self.results.load(first..first + outputs * size_of::<StepResult>())?;
        let result = |bytes: &[u8; 16]| {
            let [token, finite, low, high] = words(bytes);
            let digest = u64::from(low) | u64::from(high) << 32;
            (Sampled { token, finite: finite != 0 }, digest)
        };
        Ok(bytes.as_chunks::<16>().0.iter().map(result).collect())
    }

    /// The first `count` times that a step noted. The step must be over.
    pub(super) fn read_stamps(&self, slot: usize, count: usize) -> Result<Vec<u64>, BackendError> {
        let first = slot * self.stamps_max * STAMP_BYTES;
        let bytes = self.stamps.load(first..first + count * STAMP_BYTES)?;
        Ok(bytes.as_chunks().0.iter().map(|stamp| u64::from_le_bytes(*stamp)).collect())
    }

    /// The first `count` logprobs of an output. The step must be over.
    pub(super) fn read_logprobs(
        &self,
        slot: usize,
        output: usize,
        count: u8,
    ) -> Result<Vec<Logprob>, BackendError> {
        let first = (slot * self.outputs_max + output) * LOGPROB_BYTES;
        let bytes = usize::from(count) * size_of::<LogprobTwin>();
        let bytes = self.logprobs.load(first..first + bytes)?;
        let word = |bytes: [u8; 4]| u32::from_le_bytes(bytes);
        let logprob = |[t0, t1, t2, t3, l0, l1, l2, l3]: &[u8; 8]| Logprob {
            token: word([*t0, *t1, *t2, *t3]),
            logprob: f32::from_bits(word([*l0, *l1, *l2, *l3])),
        };
        Ok(bytes.as_chunks::<8>().0.iter().map(logprob).collect())
    }
}

fn put(bytes: &mut Vec<u8>, word: u32) {
    bytes.extend(word.to_le_bytes());
}

/// Appends an output as `StepOutput` lies in memory; `masked` is a bit of `adjusted`.
fn put_output(bytes: &mut Vec<u8>, output: &BatchOutput, masked: u32) {
    let BatchOutput { token, slot, sampling, seed, choice, position, biases, logprobs } = output;
    let Sampling {
        temperature,
        top_k,
        top_p,
        min_p: _, // `min_p_depth` reads it
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
    } = sampling;
    [to_u32(*token), slot.0, *position, *choice].iter().for_each(|word| put(bytes, *word));
    bytes.extend(seed.to_le_bytes());
    [
        temperature.to_bits(),
        top_p.to_bits(),
        *top_k,
        penalties::min_p_depth(sampling).to_bits(),
        repetition_penalty.to_bits(),
        frequency_penalty.to_bits(),
        presence_penalty.to_bits(),
        to_u32(*biases),
        masked | if output.is_adjusted() { PENALISED } else { 0 },
        u32::from(*logprobs),
    ]
    .iter()
    .for_each(|word| put(bytes, *word));
}

fn words(bytes: &[u8; 16]) -> [u32; 4] {
    let (words, _) = bytes.as_chunks::<4>();
    [0, 1, 2, 3].map(|index| u32::from_le_bytes(words[index]))
}
