//! Attention of one token's query heads over one KV head: softmax online, tile by tile.
//!
//! Tiles are 64 positions at absolute places, so a token sees the same sums in the same order
//! whether it was prefilled in a chunk or decoded, whatever the block size. Lanes are positions
//! for scores and elements for values. Keys past the token are read, where a block has them, and
//! their scores replaced; values past it are not read at all: they may be anything, NaN included.

use std::ops::Range;

use binfer_proto::BlockId;

use super::cache::{KvElement, KvPair};
use super::math;
use super::online_softmax::{OnlineSoftmax, TILE, online_softmax};
use super::simd::{Isa, IsaKernel, LANES, Lanes};
use crate::backend::KvHeadsLayout;

/// Query heads that may share a KV head.
pub(super) const GROUP_MAX: usize = 64;

/// One token's heads of one KV head.
pub(super) struct TokenAttention<'a, E> {
    /// Rotated queries, `[query heads][head_dim]`.
    pub(super) queries: &'a [f32],
    pub(super) cache: &'a KvPair<E>,
    pub(super) place: HeadPlace<'a>,
    /// Positions that the token sees: the last is its own.
    pub(super) seen: Range<usize>,
    /// A score without a value for each query head.
    pub(super) sinks: Option<&'a [f32]>,
    /// `[query heads][head_dim]`.
    pub(super) out: &'a mut [f32],
}

/// Where a sequence's keys and values of a head lie.
#[derive(Clone, Copy)]
pub(super) struct HeadPlace<'a> {
    pub(super) shape: KvHeadsLayout,
    /// Blocks of the sequence.
    pub(super) table: &'a [BlockId],
    pub(super) kv_head: usize,
}

/// Part of a tile that lies in one block.
pub(super) struct Span {
    /// First element of the head in its block.
    pub(super) at: usize,
    /// Elements of the head in its block.
    len: usize,
    /// First token of the span in its block.
    pub(super) first: usize,
    /// The span's places in the tile.
    pub(super) places: Range<usize>,
}

impl<E: KvElement> IsaKernel for TokenAttention<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let (place, cache) = (self.place, self.cache);
        let head_dim = place.shape.head_dim;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut states = [OnlineSoftmax::EMPTY; GROUP_MAX];
        self.out.fill(0.0);
        let tiles = self.seen.start / TILE..self.seen.end.div_ceil(TILE);
        for tile in tiles.clone() {
            let first = tile * TILE;
            let seen = self.seen.start.max(first) - first..self.seen.end.min(first + TILE) - first;
            let heads =
                self.queries.chunks_exact(head_dim).zip(self.out.chunks_exact_mut(head_dim));
            for (head, ((query, out), state)) in heads.zip(&mut states).enumerate() {
                // The first head fetches ahead for all: values behind keys, then the next keys.
                let mut scores = [0.0; TILE];
                for span in place.spans(tile, &seen) {
                    let ahead = if head == 0 { &cache.values[span.at..] } else { &[] };
                    score_span::<I, E>(query, &cache.keys, &span, ahead, &mut scores);
                }
                let factor = online_softmax::<I>(&mut scores, &seen, scale, state);
                out.iter_mut().for_each(|out| *out *= factor);
                let ahead = if head == 0 && tile + 1 < tiles.end {
                    place.spans(tile + 1, &(0..1)).next().map(|next| &cache.keys[next.at..])
                } else {
                    None
                };
                let ahead = ahead.unwrap_or_default();
                for span in place.spans(tile, &seen) {
                    let places = seen.start.max(span.places.start)..seen.end.min(span.places.end);
                    let skipped = span.first + places.start - span.places.start;
                    let values = &cache.values[span.at + skipped * head_dim..];
                    add_values::<I, E>(&scores[places], values, ahead, out);
                }
            }
        }
        let heads = self.out.chunks_exact_mut(head_dim).zip(&states);
        for (head, (out, state)) in heads.enumerate() {
            let sink = self.sinks.map_or(0.0, |sinks| math::exp::<I>(sinks[head] - state.largest));
            let factor = 1.0 / (state.sum + sink);
            out.iter_mut().for_each(|out| *out *= factor);
        }
    }
}

impl<'a> HeadPlace<'a> {
    /// The spans of a tile that hold a position in `seen`.
    #[inline(always)]
    pub(super) fn spans(
        self,
        tile: usize,
        seen: &Range<usize>,
    ) -> impl Iterator<Item = Span> + use<'a> {
        let KvHeadsLayout { kv_heads, block_tokens, head_dim, .. } = self.shape;
        let length = block_tokens.min(TILE);
        (seen.start / length..seen.end.div_ceil(length)).map(move |index| {
            let position = tile * TILE + index * length;
            let block = self.table[position / block_tokens].index();
            let len = block_tokens * head_dim;
            Span {
                at: (block * kv_heads + self.kv_head) * len,
                len,
                first: position % block_tokens,
                places: index * length..(index + 1) * length,
            }
        })
    }
}

/// Scores of a span's positions, four, two or one register at a time: a lane's sum is the same.
#[inline(always)]
fn score_span<I: Isa, E: KvElement>(
    query: &[f32],
    keys: &[E],
    span: &Span,
    ahead: &[E],
    scores: &mut [f32; TILE],
) {
    let keys = &keys[span.at..][..span.len];
    let scores = scores[span.places.clone()].as_chunks_mut::<LANES>().0;
    match scores.len() {
        4 => score::<I, E, 4>(query, keys, span.first, ahead, scores),
        2 => score::<I, E, 2>(query, keys, span.first, ahead, scores),
        _ => {
            for (index, scores) in scores.chunks_mut(1).enumerate() {
                score::<I, E, 1>(query, keys, span.first + index * LANES, ahead, scores);
            }
        }
    }
}

#[inline(always)]
fn score<I: Isa, E: KvElement, const N: usize>(
    query: &[f32],
    keys: &[E],
    first: usize,
    ahead: &[E],
    scores: &mut [Lanes],
) {
    let mut sums = [I::splat(0.0); N];
    let block_tokens = keys.len() / query.len();
    for (element, (query, keys)) in query.iter().zip(keys.chunks_exact(block_tokens)).enumerate() {
        fetch::<I, E, N>(ahead, element * N * LANES);
        let keys = &keys[first..][..N * LANES].as_chunks::<LANES>().0;
        for n in 0..N {
            sums[n] = I::fma(I::splat(*query), E::decode::<I>(&keys[n]), sums[n]);
        }
    }
    for (scores, sums) in scores.iter_mut().zip(sums) {
        *scores = I::store(sums);
    }
}

/// Asks for `N` registers' worth of `ahead`, from element `at` on.
#[inline(always)]
fn fetch<I: Isa, E, const N: usize>(ahead: &[E], at: usize) {
    if let Some(at) = ahead.get(at) {
        for n in 0..N {
            I::prefetch(at, n * LANES * size_of::<E>());
        }
    }
}

/// `out += weights * values`, position by position.
#[inline(always)]
fn add_values<I: Isa, E: KvElement>(weights: &[f32], values: &[E], ahead: &[E], out: &mut [f32]) {
    let head_dim = out.len();
    let (out, tail) = out.as_chunks_mut::<LANES>();
    let (fours, ones) = out.as_chunks_mut::<4>();
    for (index, out) in fours.iter_mut().enumerate() {
        let first = index * 4 * LANES;
        let ahead = ahead.get(first..).unwrap_or_default();
        add_elements::<I, E, 4>(weights, &values[first..], ahead, head_dim, out);
    }
    let rest = &values[fours.len() * 4 * LANES..];
    for (index, out) in ones.iter_mut().enumerate() {
        let out = std::array::from_mut(out);
        add_elements::<I, E, 1>(weights, &rest[index * LANES..], &[], head_dim, out);
    }
    if !tail.is_empty() {
        add_tail::<I, E>(weights, &rest[ones.len() * LANES..], head_dim, tail);
    }
}

/// The last elements of a head that do not fill a register.
#[inline(always)]
fn add_tail<I: Isa, E: KvElement>(weights: &[f32], values: &[E], head_dim: usize, out: &mut [f32]) {
    let mut lanes = [0.0; LANES];
    lanes[..out.len()].copy_from_slice(out);
    let mut sums = I::load(&lanes);
    for (weight, values) in weights.iter().zip(values.chunks(head_dim)) {
        let mut padded = [E::encode(0.0); LANES];
        padded[..out.len()].copy_from_slice(&values[..out.len()]);
        sums = I::fma(I::splat(*weight), E::decode::<I>(&padded), sums);
    }
    out.copy_from_slice(&I::store(sums)[..out.len()]);
}

#[inline(always)]
fn add_elements<I: Isa, E: KvElement, const N: usize>(
    weights: &[f32],
    values: &[E],
    ahead: &[E],
    head_dim: usize,
    out: &mut [Lanes; N],
) {
    let mut sums: [I::Vector; N] = std::array::from_fn(|n| I::load(&out[n]));
    for (index, (weight, values)) in weights.iter().zip(values.chunks(head_dim)).enumerate() {
        fetch::<I, E, N>(ahead, index * head_dim);
        let values = values[..N * LANES].as_chunks::<LANES>().0;
        for n in 0..N {
            sums[n] = I::fma(I::splat(*weight), E::decode::<I>(&values[n]), sums[n]);
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = I::store(sums);
    }
}
