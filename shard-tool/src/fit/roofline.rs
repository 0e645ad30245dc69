//! What a step of decoding reads: its time, as if memory were all that counts.
//!
//! A bound from below: gemms of few tokens read every weight once and wait for nothing else.
//! Sums over ranks, launches and arithmetic come on top. Deliberately absent: prefill, which
//! arithmetic bounds.

use super::memory::kv_group_position_bytes;
use crate::slice::local_bytes;
use crate::{Error, ModelSpec, RankLayout, layouts};

/// Bytes that each rank reads in one step that gives each of `sequences`, with so many positions
/// behind it, a token. Over the bandwidth of its memory they are the least time for the step.
///
/// # Errors
/// [`crate::ErrorKind::Layout`] when the model cannot be cut so often.
pub fn step_read_bytes(
    spec: &ModelSpec,
    world: u32,
    (sequences, positions): (u64, u32),
    kv_element_bytes: u64,
) -> Result<Vec<u64>, Error> {
    let of_rank = |layout: &RankLayout| {
        let kv = kv_read_bytes(spec, layout, positions, kv_element_bytes);
        Ok(weight_read_bytes(spec, layout)?.saturating_add(kv.saturating_mul(sequences)))
    };
    layouts(spec, world)?.iter().map(of_rank).collect()
}

/// Weights that a step reads: all but an embedding that is no head, of which it reads a few rows.
fn weight_read_bytes(spec: &ModelSpec, layout: &RankLayout) -> Result<u64, Error> {
    let read = spec.tensors.iter().filter(|tensor| tensor.name != "embed" || spec.tied_head);
    read.map(|tensor| local_bytes(tensor, layout)).sum()
}

fn kv_read_bytes(spec: &ModelSpec, layout: &RankLayout, positions: u32, element_bytes: u64) -> u64 {
    let position_bytes = kv_group_position_bytes(spec, layout, element_bytes);
    let of_group = spec.kv_groups.iter().zip(position_bytes).map(|(kv_group, bytes)| {
        let seen = kv_group.kind.window().map_or(positions, |window| positions.min(window));
        bytes * u64::from(seen)
    });
    of_group.sum()
}
