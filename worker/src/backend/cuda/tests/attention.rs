//! Attention over paged blocks in any order, with windows, grouped heads, and a cache of NaN.

use std::sync::Arc;

use binfer_proto::BlockId;
use binfer_shard::DType;
use binfer_shard::spec::{KvShape, Rope, RopeScaling};

use super::{
    HALVES, Half, Known, Piece, Random, Rig, batch, is_sanitized, layout, numbers_of_tokens,
    oracle, output, same_bits, tokens_max,
};
use crate::backend::args::{AttendArgs, Tensor, TensorKind};
use crate::backend::tests::assert_near;
use crate::backend::{Backend, KvLayerLayout};

const EPS: f32 = 1e-6;
const BLOCK_TOKENS: usize = 64;

/// A shape of attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) rope_dims: usize,
    pub(super) window: Option<u32>,
    pub(super) has_norms: bool,
    pub(super) has_sinks: bool,
}

/// Neither norms nor sinks.
const BARE: Shape = Shape {
    heads: 1,
    kv_heads: 1,
    head_dim: 64,
    rope_dims: 64,
    window: None,
    has_norms: false,
    has_sinks: false,
};

/// Published shapes in small, and shapes that nobody publishes.
const SHAPES: [Shape; 7] = [
    Shape { heads: 4, kv_heads: 2, head_dim: 128, rope_dims: 128, has_norms: true, ..BARE },
    Shape { heads: 8, kv_heads: 1, has_sinks: true, ..BARE },
    Shape { heads: 2, kv_heads: 2, window: Some(70), has_norms: true, has_sinks: true, ..BARE },
    Shape { heads: 6, kv_heads: 2, head_dim: 128, rope_dims: 128, window: Some(1), ..BARE },
    Shape {
        heads: 3,
        kv_heads: 1,
        head_dim: 24,
        rope_dims: 16,
        has_norms: true,
        has_sinks: true,
        ..BARE
    },
    Shape { heads: 2, kv_heads: 1, head_dim: 70, rope_dims: 70, window: Some(65), ..BARE },
    Shape { heads: 16, kv_heads: 1, head_dim: 128, rope_dims: 128, has_sinks: true, ..BARE },
];

impl Shape {
    fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn args(&self, qkv: Tensor, out: Tensor, vectors: &[Option<Known>; 3]) -> AttendArgs {
        let dims = self.rope_dims as u32;
        let weight = |i: usize| vectors[i].as_ref().map(|known| known.weight);
        let [q_norm, k_norm, sinks] = [0, 1, 2].map(weight);
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
            sinks,
            out,
        }
    }

    /// Outputs of some tokens of a sequence.
    fn oracle(
        &self,
        qkv: &[f32],
        vectors: &[Option<Known>; 3],
        wanted: impl Iterator<Item = usize>,
    ) -> Vec<oracle::Sum> {
        let (dim, tokens) = (self.head_dim, qkv.len() / self.qkv());
        let stored = |token: usize, head: usize| &qkv[token * self.qkv() + head * dim..][..dim];
        let rotated = |token, index| {
            let norm = &vectors[usize::from(index >= self.heads)];
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
        for token in wanted {
            let seen = self.window.map_or(0, |window| (token + 1).saturating_sub(window as usize));
            for query in 0..self.heads {
                let kv = query / (self.heads / self.kv_heads);
                let value = |t| oracle::wide(stored(t, self.heads + self.kv_heads + kv));
                let values: Vec<_> = (seen..=token).map(value).collect();
                let keys = &keys[kv][seen..=token];
                let sink = vectors[2].as_ref().map(|sinks| sinks.rows[0][query]);
                out.extend(oracle::attention(&rotated(token, query), keys, &values, sink));
            }
        }
        out
    }
}

/// Block tables of `each` blocks, ids dealt in random order.
pub(super) fn tables(random: &mut Random, sequences: usize, each: usize) -> Vec<Vec<BlockId>> {
    let mut ids: Vec<u32> = (0..(sequences * each) as u32).collect();
    for index in (1..ids.len()).rev() {
        ids.swap(index, random.below(index + 1));
    }
    ids.chunks(each).map(|ids| ids.iter().map(|id| BlockId(*id)).collect()).collect()
}

/// Sequences that are fed piece by piece, what the device made of them, and what it should have.
pub(super) struct Feeding {
    shape: Shape,
    /// How often a step is run; every time it must have the same bits.
    pub(super) repeats: usize,
    /// Of a chunk every so manieth token is compared with the oracle.
    compared: usize,
    /// Norms of queries and keys, sinks.
    vectors: [Option<Known>; 3],
    tables: Vec<Vec<BlockId>>,
    qkv: Vec<Vec<f32>>,
    done: Vec<usize>,
    at: Vec<Tensor>,
}

impl Feeding {
    pub(super) fn new(rig: &mut Rig, shape: Shape, sequences: usize, tokens: usize) -> Self {
        let each = tokens.div_ceil(BLOCK_TOKENS);
        let norm =
            |rig: &mut Rig| shape.has_norms.then(|| rig.weight(DType::F32, 1, shape.head_dim));
        let sinks = |rig: &mut Rig| shape.has_sinks.then(|| rig.weight(DType::F32, 1, shape.heads));
        let vectors = [norm(rig), norm(rig), sinks(rig)];
        let width = shape.heads * shape.head_dim;
        let rows = tokens_max();
        let shapes = [(rows, shape.qkv(), TensorKind::Inner), (rows, width, TensorKind::Inner)];
        let (at, arena) = rig.place(&shapes, true);
        let kv = KvLayerLayout {
            kv_group: 0,
            blocks: sequences * each,
            block_tokens: BLOCK_TOKENS,
            shape: KvShape::Heads {
                kv_heads: shape.kv_heads as u32,
                head_dim: shape.head_dim as u32,
            },
        };
        rig.allocate(&crate::backend::MemoryLayout { kv: vec![kv], ..layout(arena) });
        let qkv = (0..sequences).map(|_| {
            let values = rig.random.floats(tokens * shape.qkv());
            values.into_iter().map(|x| rig.rounded(x)).collect()
        });
        let qkv = qkv.collect();
        let tables = tables(&mut rig.random, sequences, each);
        Self { shape, repeats: 2, compared: 1, vectors, tables, qkv, done: vec![0; sequences], at }
    }

    /// Feeds `counts` tokens of each sequence, compares, and returns what came out; decode rows
    /// sample a token each.
    pub(super) fn step(&mut self, rig: &mut Rig, counts: &[usize], what: &str) -> Vec<f32> {
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
            rig.backend.attend(&self.shape.args(qkv, out, &self.vectors)).unwrap();
            let got = rig.read(out);
            rig.outcome();
            got
        };
        let got = run();
        let what = format!("{what} {:?} {counts:?} from {:?}", self.shape, self.done);
        (1..self.repeats).for_each(|_| same_bits(&got, &run(), &what));
        let out_width = self.shape.heads * self.shape.head_dim;
        let (mut want, mut compared, mut first) = (Vec::new(), Vec::new(), 0);
        for (index, count) in sequences() {
            let start = self.done[index];
            self.done[index] += count;
            let seen = &self.qkv[index][..self.done[index] * width];
            let wanted = (start..start + count).step_by(self.compared);
            want.extend(self.shape.oracle(seen, &self.vectors, wanted));
            for token in (first..first + count).step_by(self.compared) {
                compared.extend_from_slice(&got[token * out_width..][..out_width]);
            }
            first += count;
        }
        let tolerance = if rig.half() == Half::Bf16 { 2e-2 } else { 3e-3 };
        assert_near(&compared, &want, tolerance, &what);
        got
    }
}

/// All shapes in all types; under a sanitizer every shape in one of the types, so that every kernel
/// is still met in both.
fn for_all_shapes(test: impl Fn(&mut Rig, Shape, &str)) {
    for (place, half) in HALVES.into_iter().enumerate() {
        let Some(mut rig) = Rig::new(half, 0) else { return };
        for (index, shape) in SHAPES.into_iter().enumerate() {
            if !is_sanitized() || index % HALVES.len() == place {
                rig.begin(index as u64 + 1);
                test(&mut rig, shape, &format!("{half:?}"));
            }
        }
    }
}

#[test]
fn chunks_and_decode_rows_equal_their_oracle() {
    let steps = [[64, 1, 63], [1, 64, 1], [1, 1, 1], [130, 0, 65], [1, 1, 1], [0, 1, 0]];
    let steps = if is_sanitized() { &steps[..3] } else { &steps[..] };
    for_all_shapes(|rig, shape, what| {
        let mut feeding = Feeding::new(rig, shape, 3, 320);
        steps.iter().for_each(|counts| drop(feeding.step(rig, counts, what)));
    });
}

#[test]
fn decode_rows_of_any_length_equal_their_oracle() {
    for_all_shapes(|rig, shape, what| {
        // Lengths around pages and around the window, and rows in no order of length.
        let window = shape.window.map_or(190, |window| window as usize);
        let around = [0, 1, 2].map(|more| (window + more).saturating_sub(2));
        let lengths = [[62, 63, 64, 126, 0, 127].as_slice(), &around, &[5, 60, 1]].concat();
        let mut feeding = Feeding::new(rig, shape, lengths.len(), 320);
        feeding.step(rig, &lengths, &format!("{what} prompts"));
        for _ in 0..if is_sanitized() { 1 } else { 3 } {
            feeding.step(rig, &[1; 12], &format!("{what} decode"));
        }
    });
}

/// Few rows have blocks of their own, which divide the row's pages; blocks of many share the pages
/// of all. Lengths are around those where another page, or another block, comes in.
#[test]
fn pages_are_shared_out_among_blocks() {
    let cases = [(1, 511, SHAPES[1]), (2, 1023, SHAPES[0]), (20, 831, SHAPES[0]), (40, 575, BARE)];
    for half in HALVES {
        let Some(mut rig) = Rig::new(half, 0) else { return };
        for (index, (rows, tokens, shape)) in cases.into_iter().enumerate() {
            // Rows that share blocks are in the test before, too.
            if is_sanitized() && index > 0 {
                continue;
            }
            rig.begin(index as u64 + 41);
            let mut feeding = Feeding::new(&mut rig, shape, rows, tokens + 4);
            feeding.compared = 331;
            for row in 0..rows {
                let mut counts = vec![0; rows];
                counts[row] = tokens - row % 3;
                feeding.step(&mut rig, &counts, &format!("{half:?} prompts"));
            }
            feeding.compared = 1;
            (0..3).for_each(|_| drop(feeding.step(&mut rig, &vec![1; rows], &format!("{half:?}"))));
        }
    }
}

#[test]
fn any_number_of_decode_rows_and_of_tokens_of_a_chunk() {
    for (half, shape) in [(Half::Bf16, SHAPES[0]), (Half::F16, SHAPES[2]), (Half::Bf16, SHAPES[4])]
    {
        let Some(mut rig) = Rig::new(half, 21) else { return };
        // One block or several of a row, one tile of a chunk or several.
        for count in numbers_of_tokens().filter(|count| !is_sanitized() || *count < 60) {
            let what = format!("{half:?} {count}");
            let mut feeding = Feeding::new(&mut rig, shape, count, 2);
            feeding.step(&mut rig, &vec![1; count], &what);
            feeding.step(&mut rig, &vec![1; count], &what);
            let mut feeding = Feeding::new(&mut rig, shape, 2, 2 * count + 1);
            feeding.step(&mut rig, &[count, 1], &what);
            feeding.step(&mut rig, &[count, 0], &what);
        }
    }
}

#[test]
fn a_chunk_of_8192_tokens() {
    let most = tokens_max();
    for (half, shape) in [(Half::Bf16, SHAPES[2]), (Half::F16, SHAPES[0])] {
        let Some(mut rig) = Rig::new(half, 31) else { return };
        let mut feeding = Feeding::new(&mut rig, shape, 1, most);
        feeding.compared = 331;
        feeding.step(&mut rig, &[most - 1], &format!("{half:?}"));
        feeding.step(&mut rig, &[1], &format!("{half:?}"));
        let mut feeding = Feeding::new(&mut rig, shape, 1, most);
        feeding.compared = 331;
        feeding.step(&mut rig, &[most], &format!("{half:?}"));
    }
}
