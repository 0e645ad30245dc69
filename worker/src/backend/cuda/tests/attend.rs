//! Attention over paged blocks in any order, with windows, grouped heads, and a cache of NaN.

use std::sync::Arc;

use binfer_proto::BlockId;
use binfer_shard::DType;
use binfer_shard::spec::{Rope, RopeScaling};

use super::{
    HALVES, Half, Known, Piece, Random, Rig, batch, oracle, output, place, plan, same_bits,
};
use crate::backend::args::{AttendArgs, Kind, Tensor};
use crate::backend::tests::assert_near;
use crate::backend::{Backend, KvLayerPlan};

const EPS: f32 = 1e-6;
const BLOCK_TOKENS: usize = 64;

/// A shape of attention.
#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rope_dims: usize,
    window: Option<u32>,
    has_norms: bool,
}

/// Published shapes in small, and shapes that nobody publishes.
const SHAPES: [Shape; 7] = [
    Shape { heads: 4, kv_heads: 2, head_dim: 128, rope_dims: 128, window: None, has_norms: true },
    Shape { heads: 8, kv_heads: 1, head_dim: 64, rope_dims: 64, window: None, has_norms: false },
    Shape { heads: 2, kv_heads: 2, head_dim: 64, rope_dims: 64, window: Some(70), has_norms: true },
    Shape {
        heads: 6,
        kv_heads: 2,
        head_dim: 128,
        rope_dims: 128,
        window: Some(1),
        has_norms: false,
    },
    Shape { heads: 3, kv_heads: 1, head_dim: 24, rope_dims: 16, window: None, has_norms: true },
    Shape {
        heads: 2,
        kv_heads: 1,
        head_dim: 70,
        rope_dims: 70,
        window: Some(65),
        has_norms: false,
    },
    Shape { heads: 16, kv_heads: 1, head_dim: 128, rope_dims: 128, window: None, has_norms: false },
];

impl Shape {
    fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn args(&self, qkv: Tensor, out: Tensor, norms: &[Option<Known>; 2]) -> AttendArgs {
        let dims = self.rope_dims as u32;
        let [q_norm, k_norm] = [0, 1].map(|i| norms[i].as_ref().map(|norm| norm.weight));
        AttendArgs {
            qkv,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            q_norm,
            k_norm,
            norm_eps: EPS,
            rope: Rope { theta: 10_000.0, dims, scaling: RopeScaling::None },
            layer: 0,
            kv_group: 0,
            window: self.window,
            out,
        }
    }

    /// Outputs of the tokens from `first` on of a sequence.
    fn oracle(&self, qkv: &[f32], norms: &[Option<Known>; 2], first: usize) -> Vec<oracle::Sum> {
        let (dim, tokens) = (self.head_dim, qkv.len() / self.qkv());
        let stored = |token: usize, head: usize| &qkv[token * self.qkv() + head * dim..][..dim];
        let rotated = |token, index| {
            let norm = &norms[usize::from(index >= self.heads)];
            let head = match norm {
                Some(norm) => oracle::rms_norm(stored(token, index), &norm.rows[0], EPS),
                None => oracle::wide(stored(token, index)),
            };
            oracle::rotate(&head, token, self.rope_dims, 10_000.0)
        };
        let kv_heads = self.heads..self.heads + self.kv_heads;
        let keys: Vec<Vec<_>> =
            kv_heads.map(|head| (0..tokens).map(|token| rotated(token, head)).collect()).collect();
        let mut out = Vec::new();
        for token in first..tokens {
            let seen = self.window.map_or(0, |window| (token + 1).saturating_sub(window as usize));
            for query in 0..self.heads {
                let kv = query / (self.heads / self.kv_heads);
                let value = |t| oracle::wide(stored(t, self.heads + self.kv_heads + kv));
                let values: Vec<_> = (seen..=token).map(value).collect();
                let keys = &keys[kv][seen..=token];
                out.extend(oracle::attention(&rotated(token, query), keys, &values));
            }
        }
        out
    }
}

/// Block tables of `each` blocks, ids dealt in random order.
fn tables(random: &mut Random, sequences: usize, each: usize) -> Vec<Vec<BlockId>> {
    let mut ids: Vec<u32> = (0..(sequences * each) as u32).collect();
    for index in (1..ids.len()).rev() {
        ids.swap(index, random.below(index + 1));
    }
    ids.chunks(each).map(|ids| ids.iter().map(|id| BlockId(*id)).collect()).collect()
}

/// Sequences that are fed piece by piece, what the device made of them, and what it should have.
struct Feeding {
    shape: Shape,
    norms: [Option<Known>; 2],
    tables: Vec<Vec<BlockId>>,
    qkv: Vec<Vec<f32>>,
    done: Vec<usize>,
    at: Vec<Tensor>,
}

impl Feeding {
    fn new(rig: &mut Rig, shape: Shape, sequences: usize, tokens: usize) -> Self {
        let each = tokens.div_ceil(BLOCK_TOKENS);
        let norm =
            |rig: &mut Rig| shape.has_norms.then(|| rig.weight(DType::F32, 1, shape.head_dim));
        let norms = [norm(rig), norm(rig)];
        let width = shape.heads * shape.head_dim;
        let rows = 512;
        let shapes = [(rows, shape.qkv(), Kind::Inner), (rows, width, Kind::Inner)];
        let (at, arena) = place(&shapes, true);
        let kv = KvLayerPlan {
            kv_group: 0,
            blocks: sequences * each,
            kv_heads: shape.kv_heads,
            block_tokens: BLOCK_TOKENS,
            head_dim: shape.head_dim,
        };
        rig.allocate(&crate::backend::MemoryPlan { kv: vec![kv], ..plan(arena) });
        let qkv = (0..sequences).map(|_| {
            let values = rig.random.floats(tokens * shape.qkv());
            values.into_iter().map(|x| rig.rounded(x)).collect()
        });
        let qkv = qkv.collect();
        let tables = tables(&mut rig.random, sequences, each);
        Self { shape, norms, tables, qkv, done: vec![0; sequences], at }
    }

    /// Feeds `counts` tokens of each sequence and compares; decode rows draw a token each.
    fn step(&mut self, rig: &mut Rig, counts: &[usize], what: &str) {
        let (width, mut fed, mut pieces) = (self.shape.qkv(), Vec::new(), Vec::new());
        let sequences = || counts.iter().enumerate().filter(|(_, count)| **count > 0);
        for (index, count) in sequences() {
            let start = self.done[index];
            fed.extend_from_slice(&self.qkv[index][start * width..][..count * width]);
            let (tokens, table) = (vec![0; *count], self.tables[index].clone());
            pieces.push(Piece { slot: index as u32, start, tokens, table });
        }
        let mut batch = batch(&pieces);
        if counts.iter().all(|count| *count <= 1) {
            batch.outputs = (0..pieces.len()).map(|row| output(row as u32, row, 1)).collect();
        }
        let rows = fed.len() / width;
        let [qkv, out] = [0, 1].map(|index| self.at[index].with_rows(rows));
        let batch = Arc::new(batch);
        let mut run = || {
            rig.write(qkv, &fed);
            rig.backend.upload(Arc::clone(&batch)).unwrap();
            rig.backend.attend(&self.shape.args(qkv, out, &self.norms)).unwrap();
            let got = rig.read(out);
            rig.outcome();
            got
        };
        let (got, again) = (run(), run());
        let mut want = Vec::new();
        for (index, count) in sequences() {
            let end = self.done[index] + count;
            let seen = &self.qkv[index][..end * width];
            want.extend(self.shape.oracle(seen, &self.norms, self.done[index]));
            self.done[index] = end;
        }
        let what = format!("{what} {:?} {counts:?} to {:?}", self.shape, self.done);
        let tolerance = if rig.half() == Half::Bf16 { 2e-2 } else { 3e-3 };
        assert_near(&got, &want, tolerance, &what);
        same_bits(&got, &again, &what);
    }
}

#[test]
fn chunks_and_decode_rows_equal_their_oracle() {
    for half in HALVES {
        for (index, shape) in SHAPES.into_iter().enumerate() {
            let Some(mut rig) = Rig::new(half, index as u64 + 1) else { return };
            let mut feeding = Feeding::new(&mut rig, shape, 3, 320);
            let what = format!("{half:?}");
            for counts in [[64, 1, 63], [1, 64, 1], [1, 1, 1], [130, 0, 65], [1, 1, 1], [0, 1, 0]] {
                feeding.step(&mut rig, &counts, &what);
            }
        }
    }
}

#[test]
fn decode_rows_of_any_length_equal_their_oracle() {
    for half in HALVES {
        for (index, shape) in SHAPES.into_iter().enumerate() {
            let Some(mut rig) = Rig::new(half, index as u64 + 9) else { return };
            // Lengths around pages, and rows in no order of length.
            let lengths = [62, 63, 64, 126, 0, 127, 5, 60, 1];
            let mut feeding = Feeding::new(&mut rig, shape, lengths.len(), 320);
            feeding.step(&mut rig, &lengths, &format!("{half:?} prompts"));
            for _ in 0..3 {
                feeding.step(&mut rig, &[1; 9], &format!("{half:?} decode"));
            }
        }
    }
}
