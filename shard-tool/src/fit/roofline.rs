//! What a step of decoding reads: its time, as if memory were all that counts.
//!
//! A bound from below: gemms of few tokens read every weight once and wait for nothing else.
//! Sums over ranks, launches and arithmetic come on top. Deliberately absent: prefill, which
//! arithmetic bounds.

use super::memory::kv_group_position_bytes;
use crate::slice::local_bytes;
use crate::spec::TensorCut;
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
        let weights = weight_read_bytes(spec, layout, sequences)?;
        Ok(weights.saturating_add(kv.saturating_mul(sequences)))
    };
    layouts(spec, world)?.iter().map(of_rank).collect()
}

/// Weights that a step of so many tokens reads: all but an embedding that is no head, of which it
/// reads a few rows, and experts that no token is sent to.
fn weight_read_bytes(spec: &ModelSpec, layout: &RankLayout, tokens: u64) -> Result<u64, Error> {
    let mut bytes: u64 = 0;
    for tensor in spec.tensors.iter().filter(|tensor| tensor.name != "embed" || spec.tied_head) {
        let held = local_bytes(tensor, layout)?;
        let moe = tensor.layer.and_then(|layer| spec.layers.get(layer)?.ffn.moe());
        let read = match (tensor.cut, moe) {
            (TensorCut::Experts(_), Some(moe)) => {
                touched_bytes(held, moe.routing.top_k, moe.experts, tokens)
            }
            _ => held,
        };
        bytes = bytes.saturating_add(read);
    }
    Ok(bytes)
}

/// The expected part of experts' bytes that so many tokens touch, each of them `top_k` of all
/// experts with equal chances.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of `bytes`")]
pub fn touched_bytes(bytes: u64, top_k: u32, experts: u32, tokens: u64) -> u64 {
    let missed = (1.0 - f64::from(top_k) / f64::from(experts.max(1))).max(0.0);
    (bytes as f64 * (1.0 - missed.powf(tokens as f64))) as u64
}

fn kv_read_bytes(spec: &ModelSpec, layout: &RankLayout, positions: u32, element_bytes: u64) -> u64 {
    let position_bytes = kv_group_position_bytes(spec, layout, element_bytes);
    let of_group = spec.kv_groups.iter().zip(position_bytes).map(|(kv_group, bytes)| {
        let seen = kv_group.kind.window().map_or(positions, |window| positions.min(window));
        bytes * u64::from(seen)
    });
    of_group.sum()
}
