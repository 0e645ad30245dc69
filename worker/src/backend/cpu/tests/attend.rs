//! Attention over paged blocks in any order, with windows, grouped heads and dirty memory.

use std::sync::Arc;

use binfer_proto::BlockId;
use binfer_shard::spec::{KvShape, Rope, RopeScaling};

use super::{Known, KvDtype, Level, Piece, Random, Rig, assert_near, batch, oracle, place};
use crate::backend::args::{AttendArgs, Tensor};
use crate::backend::{Backend, KvLayerLayout};

const EPS: f32 = 1e-6;

/// A shape of attention.
#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rope_dims: usize,
    window: Option<u32>,
    block_tokens: usize,
}

impl Shape {
    fn random(random: &mut Random) -> Self {
        let kv_heads = 1 + random.below(3);
        let head_dim = [16, 24, 48, 64, 70, 128][random.below(6)];
        Self {
            heads: kv_heads * (1 + random.below(4)),
            kv_heads,
            head_dim,
            rope_dims: head_dim - 2 * random.below(2) * random.below(8),
            window: [None, Some(1), Some(30), Some(100)][random.below(4)],
            block_tokens: [16, 32, 64, 128][random.below(4)],
        }
    }

    fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn args(&self, qkv: Tensor, out: Tensor, norms: &Norms) -> AttendArgs {
        let rope =
            Rope { theta: 10_000.0, dims: self.rope_dims as u32, scaling: RopeScaling::None };
        let Self { heads, kv_heads, head_dim, window, .. } = *self;
        let all = [&norms.q, &norms.k, &norms.sinks];
        let [q_norm, k_norm, sinks] = all.map(|known| known.as_ref().map(|known| known.weight));
        AttendArgs {
            qkv,
            heads,
            kv_heads,
            head_dim,
            q_norm,
            k_norm,
            norm_eps: EPS,
            rope,
            layer: 0,
            kv_group: 0,
            window,
            sinks,
            out,
        }
    }

    /// Outputs of all tokens of a sequence.
    fn oracle(&self, qkv: &[f32], norms: &Norms) -> Vec<oracle::Sum> {
        let (dim, tokens) = (self.head_dim, qkv.len() / self.qkv());
        let stored = |token: usize, head: usize| &qkv[token * self.qkv() + head * dim..][..dim];
        let rotated = |token, index| {
            let norm = if index < self.heads { &norms.q } else { &norms.k };
            let head = match norm {
                Some(norm) => oracle::rms_norm(stored(token, index), &norm.rows[0], EPS),
                None => oracle::wide(stored(token, index)),
            };
            oracle::rotate(&head, token, self.rope_dims, 10_000.0)
        };
        let mut out = Vec::new();
        for token in 0..tokens {
            let first = self.window.map_or(0, |window| (token + 1).saturating_sub(window as usize));
            for query in 0..self.heads {
                let kv = query / (self.heads / self.kv_heads);
                let keys: Vec<_> = (first..=token).map(|t| rotated(t, self.heads + kv)).collect();
                let value = |t| oracle::wide(stored(t, self.heads + self.kv_heads + kv));
                let values: Vec<_> = (first..=token).map(value).collect();
                let sink = norms.sinks.as_ref().map(|sinks| sinks.rows[0][query]);
                out.extend(oracle::attention(&rotated(token, query), &keys, &values, sink));
            }
        }
        out
    }
}

/// Scales for query and key heads, and scores without values.
struct Norms {
    q: Option<Known>,
    k: Option<Known>,
    sinks: Option<Known>,
}

impl Norms {
    /// Each or none of them.
    fn random(rig: &mut Rig, shape: &Shape) -> Self {
        let mut vector = |len| (rig.random.below(2) == 0).then(|| rig.norm(len));
        let (q, k) = (vector(shape.head_dim), vector(shape.head_dim));
        Self { q, k, sinks: vector(shape.heads) }
    }
}

/// Block tables for sequences of `tokens` positions each, ids dealt in random order.
fn tables(random: &mut Random, sequences: usize, tokens: usize, size: usize) -> Vec<Vec<BlockId>> {
    let each = tokens.div_ceil(size);
    let mut ids: Vec<u32> = (0..(sequences * each) as u32).collect();
    for index in (1..ids.len()).rev() {
        ids.swap(index, random.below(index + 1));
    }
    ids.chunks(each).map(|ids| ids.iter().map(|id| BlockId(*id)).collect()).collect()
}

/// Two sequences, the second behind the first, fed in chunks; memory starts as NaN.
fn check(level: Level, kv_dtype: KvDtype, seed: u64, tolerance: f64) {
    const TOKENS: usize = 150;
    let mut rig = Rig::new(level, 1 + seed as usize % 2, kv_dtype);
    rig.random = Random(seed);
    let shape = Shape::random(&mut rig.random);
    let norms = Norms::random(&mut rig, &shape);
    let tables = tables(&mut rig.random, 2, TOKENS, shape.block_tokens);
    let blocks = 2 * tables[0].len();
    let (block_tokens, width) = (shape.block_tokens, shape.heads * shape.head_dim);
    let kv = KvLayerLayout {
        kv_group: 0,
        blocks,
        block_tokens,
        shape: KvShape::Heads { kv_heads: shape.kv_heads as u32, head_dim: shape.head_dim as u32 },
    };
    let (at, arena) = place(&[(TOKENS, shape.qkv()), (TOKENS, width)]);
    rig.allocate(arena, 0, vec![kv]);
    let qkv = [0, 1].map(|_| rig.random.floats(TOKENS * shape.qkv()));
    let mut got = [Vec::new(), Vec::new()];
    let mut done = [0, 0];
    while done[1] < TOKENS {
        let counts = [0, 1].map(|i| (1 + rig.random.below(40)).min(TOKENS - done[i]).min(75));
        let tokens = counts.map(|count| vec![0; count]);
        let pieces = [0, 1].map(|i| Piece {
            slot: i as u32,
            start: done[i],
            tokens: &tokens[i],
            table: &tables[i],
        });
        rig.backend.upload(Arc::new(batch(&pieces))).unwrap();
        let fed = [0, 1].map(|i| &qkv[i][done[i] * shape.qkv()..][..counts[i] * shape.qkv()]);
        let rows = counts[0] + counts[1];
        rig.write(at[0].with_rows(rows), &fed.concat());
        let out = at[1].with_rows(rows);
        rig.backend.attend(&shape.args(at[0].with_rows(rows), out, &norms)).unwrap();
        let out = rig.read(out);
        let (first, second) = out.split_at(counts[0] * width);
        got[0].extend(first);
        got[1].extend(second);
        done = [0, 1].map(|i| done[i] + counts[i]);
    }
    for (got, qkv) in got.iter().zip(&qkv) {
        let want = shape.oracle(&qkv[..got.len() / width * shape.qkv()], &norms);
        assert_near(got, &want, tolerance, &format!("{seed} {shape:?} {level:?} {kv_dtype:?}"));
    }
}

#[test]
fn attend_equals_its_oracle() {
    for level in Level::available() {
        (0..8).for_each(|seed| check(level, KvDtype::F32, seed, 1e-5));
    }
}

#[test]
fn a_cache_in_half_precision_comes_near() {
    for level in Level::available() {
        (0..3).for_each(|seed| check(level, KvDtype::F16, seed, 3e-3));
        (0..3).for_each(|seed| check(level, KvDtype::BF16, seed, 2e-2));
    }
}
