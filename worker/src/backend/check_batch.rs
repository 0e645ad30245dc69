//! Contracts of a step's batch and of its token masks as code. Every backend calls these in every
//! build.

use binfer_proto::{Bias, Mask};

use super::{BackendError, MemoryLayout};
use crate::batch::{Batch, BatchBlocks, BatchRow, SlotTokens, TokenInput};

/// Refuses a batch whose arrays contradict each other or the memory that was taken.
pub fn check_batch(batch: &Batch, layout: &MemoryLayout) -> Result<(), BackendError> {
    let tokens = batch.tokens.len();
    if batch.positions.len() != tokens {
        return refuse(format!("{tokens} tokens, {} positions", batch.positions.len()));
    }
    let covered = batch.rows.iter().try_fold(0, |next, row| check_row(batch, row, next))?;
    if covered != tokens {
        return refuse(format!("rows cover {covered} of {tokens} tokens"));
    }
    let slot_within = |slot: usize| slot < layout.slots_max;
    let slots = batch.tokens.iter().filter_map(|token| match token {
        TokenInput::LastSample(slot) => Some(slot.index()),
        TokenInput::Known(_) => None,
    });
    let outputs = &batch.outputs;
    let mut slots = slots.chain(outputs.iter().map(|output| output.slot.index()));
    if !slots.all(slot_within) {
        return refuse(format!("a slot is not below {}", layout.slots_max));
    }
    batch.opened.iter().try_for_each(|tokens| check_slot_tokens(tokens, layout))?;
    batch.new_blocks.iter().try_for_each(|blocks| check_blocks(blocks, layout))?;
    if outputs.len() > layout.outputs_max || outputs.iter().any(|output| output.token >= tokens) {
        return refuse(format!("outputs of a step of {tokens} tokens: {outputs:?}"));
    }
    Ok(())
}

fn refuse<T>(cause: String) -> Result<T, BackendError> {
    Err(BackendError::Args { operation: "upload", cause })
}

/// Refuses masks that the step cannot have. `known` says whether the step has masks already.
pub fn check_masks(
    masks: &[Mask],
    (batch, vocab): (&Batch, usize),
    known: bool,
) -> Result<(), BackendError> {
    let vocab = u32::try_from(vocab).unwrap_or(u32::MAX);
    let checked = match (batch.masked, known) {
        (true, false) => Mask::check(masks, batch.outputs.len(), vocab).map_err(|e| e.to_string()),
        (true, true) => Err("the step has its masks already".into()),
        (false, _) => Err("the step is not masked".into()),
    };
    checked.map_err(|cause| BackendError::Args { operation: "masks", cause })
}

/// Refuses an operation of a step that lacks its masks.
pub fn check_masked(
    operation: &'static str,
    batch: &Batch,
    known: bool,
) -> Result<(), BackendError> {
    if batch.masked && !known {
        let cause = "the step's masks have not come".into();
        return Err(BackendError::Args { operation, cause });
    }
    Ok(())
}

/// Refuses a slot or tokens that do not exist, and biases that no plan has.
fn check_slot_tokens(tokens: &SlotTokens, layout: &MemoryLayout) -> Result<(), BackendError> {
    let SlotTokens { slot, history, biases, .. } = tokens;
    if slot.index() >= layout.slots_max || history.iter().any(|t| *t as usize >= layout.vocab) {
        return refuse(format!("slot {slot}: the slot or one of its tokens does not exist"));
    }
    let vocab = u32::try_from(layout.vocab).unwrap_or(u32::MAX);
    Bias::check(biases, vocab).or_else(|error| refuse(error.to_string()))
}

/// Refuses entries of a block table that does not exist.
fn check_blocks(blocks: &BatchBlocks, layout: &MemoryLayout) -> Result<(), BackendError> {
    let BatchBlocks { slot, kv_group, first, ids } = blocks;
    let room = layout.blocks_per_slot.get(*kv_group).copied();
    let end = first.checked_add(ids.len());
    let fits = room.zip(end).is_some_and(|(room, end)| end <= room);
    if slot.index() < layout.slots_max && fits {
        return Ok(());
    }
    let (count, room) = (ids.len(), room.unwrap_or(0));
    refuse(format!(
        "slot {slot}: {count} blocks from {first} on in a table of KV group {kv_group} for {room}"
    ))
}

/// Refuses a row that does not begin at token `next` or whose positions do not rise by one. Returns
/// the token at which the next row begins.
fn check_row(batch: &Batch, row: &BatchRow, next: usize) -> Result<usize, BackendError> {
    let end = next + row.count;
    let positions = batch.positions.get(next..end).unwrap_or_default();
    let mut expected = (row.start..).zip(positions);
    let in_order = expected.all(|(wanted, position)| *position as usize == wanted);
    if row.first != next || positions.len() != row.count || !in_order {
        return refuse(format!("row of slot {} is not what follows token {next}", row.slot));
    }
    Ok(end)
}
