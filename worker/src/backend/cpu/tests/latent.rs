//! Latent attention against its oracle, over paged blocks in any order and dirty memory.

use std::sync::Arc;

use binfer_proto::BlockId;
use binfer_shard::DType;
use binfer_shard::spec::{KvShape, Rope, RopeScaling, TensorCut};

use super::{Known, KvDtype, Level, Piece, Random, Rig, assert_near, batch, oracle, place};
use crate::backend::args::{AttendLatentArgs, Tensor};
use crate::backend::{Backend, KvLayerLayout};

const EPS: f32 = 1e-6;
const TOKENS: usize = 150;

/// A shape of latent attention.
#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    nope: usize,
    latent: usize,
    value: usize,
    rope: usize,
    block_tokens: usize,
}

impl Shape {
    fn random(random: &mut Random) -> Self {
        Self {
            heads: 1 + random.below(9),
            nope: [16, 24, 64, 128][random.below(4)],
            latent: [32, 40, 96, 160][random.below(4)],
            value: [16, 20, 64][random.below(3)],
            rope: [8, 16, 64][random.below(3)],
            block_tokens: [16, 32, 64, 128][random.below(4)],
        }
    }

    fn query_cols(&self) -> usize {
        self.heads * (self.nope + self.rope)
    }

    fn cached(&self) -> usize {
        self.latent + self.rope
    }

    fn scale(&self) -> f32 {
        1.0 / ((self.nope + self.rope) as f32).sqrt()
    }
}

/// A layer of that shape.
struct Layer {
    rig: Rig,
    shape: Shape,
    norm: Known,
    k_b: Known,
    v_b: Known,
    at: Vec<Tensor>,
}

impl Layer {
    fn new(mut rig: Rig, shape: Shape) -> Self {
        let Shape { heads, nope, latent, value, block_tokens, .. } = shape;
        let norm = rig.norm(latent);
        let dtype = [DType::F32, DType::BF16, DType::F16][rig.random.below(3)];
        let mut stack = |each: usize, cols| {
            rig.stack(&[(dtype, heads * each)], cols, TensorCut::HeadRows(each as u32))
        };
        let (k_b, v_b) = (stack(latent, nope), stack(value, latent));
        let (at, arena) = place(&[
            (2 * TOKENS, shape.query_cols()),
            (2 * TOKENS, shape.cached()),
            (2 * TOKENS, heads * value),
        ]);
        let kv = KvLayerLayout {
            kv_group: 0,
            blocks: 2 * TOKENS.div_ceil(block_tokens),
            block_tokens,
            shape: KvShape::Latent { width: shape.cached() as u32 },
        };
        rig.allocate(arena, 0, vec![kv]);
        Self { rig, shape, norm, k_b, v_b, at }
    }

    fn args(&self, rows: usize) -> AttendLatentArgs {
        let Shape { heads, nope, latent, value, rope, .. } = self.shape;
        AttendLatentArgs {
            queries: self.at[0].with_rows(rows),
            latent: self.at[1].with_rows(rows),
            latent_norm: self.norm.weight,
            norm_eps: EPS,
            k_b: self.k_b.weight,
            v_b: self.v_b.weight,
            heads,
            nope,
            latent_dim: latent,
            value_dim: value,
            rope: Rope { theta: 10_000.0, dims: rope as u32, scaling: RopeScaling::None },
            scale: self.shape.scale(),
            layer: 0,
            kv_group: 0,
            out: self.at[2].with_rows(rows),
        }
    }

    /// A step; `fed` are each piece's queries and latent vectors. Outputs, piece by piece.
    fn step(&mut self, pieces: &[Piece<'_>], fed: &[(&[f32], &[f32])]) -> Vec<f32> {
        self.rig.backend.upload(Arc::new(batch(pieces))).unwrap();
        let args = self.args(pieces.iter().map(|piece| piece.tokens.len()).sum());
        let queries: Vec<f32> = fed.iter().flat_map(|fed| fed.0).copied().collect();
        let latent: Vec<f32> = fed.iter().flat_map(|fed| fed.1).copied().collect();
        self.rig.write(args.queries, &queries);
        self.rig.write(args.latent, &latent);
        self.rig.backend.attend_latent(&args).unwrap();
        self.rig.read(args.out)
    }

    /// Outputs of all tokens of a sequence.
    fn oracle(&self, queries: &[f32], latent: &[f32]) -> Vec<oracle::Sum> {
        let Shape { heads, nope, latent: dim, value, rope, .. } = self.shape;
        let rotate = |x: &[f64], token| oracle::rotate(x, token, rope, 10_000.0);
        let cached: Vec<Vec<f64>> = latent
            .chunks(self.shape.cached())
            .enumerate()
            .map(|(token, x)| {
                let mut cached = oracle::rms_norm(&x[..dim], &self.norm.rows[0], EPS);
                cached.extend(rotate(&oracle::wide(&x[dim..]), token));
                cached
            })
            .collect();
        let mut out = Vec::new();
        for (token, queries) in queries.chunks(self.shape.query_cols()).enumerate() {
            for (head, query) in queries.chunks(nope + rope).enumerate() {
                let mut query = oracle::wide(query);
                let rotated = rotate(&query[nope..], token);
                query.splice(nope.., rotated);
                let of_head = oracle::LatentHead {
                    k_b: &self.k_b.rows[head * dim..][..dim],
                    v_b: &self.v_b.rows[head * value..][..value],
                    scale: self.shape.scale().into(),
                };
                out.extend(oracle::latent_attention(&query, &cached[..=token], of_head));
            }
        }
        assert_eq!(out.len(), cached.len() * heads * value);
        out
    }

    fn tables(&mut self) -> Vec<Vec<BlockId>> {
        let each = TOKENS.div_ceil(self.shape.block_tokens);
        let mut ids: Vec<u32> = (0..2 * each as u32).collect();
        for index in (1..ids.len()).rev() {
            ids.swap(index, self.rig.random.below(index + 1));
        }
        ids.chunks(each).map(|ids| ids.iter().map(|id| BlockId(*id)).collect()).collect()
    }
}

/// Queries small enough for softmax not to be one-hot, and latent vectors, of `TOKENS` tokens.
fn inputs(random: &mut Random, shape: &Shape) -> (Vec<f32>, Vec<f32>) {
    let mut queries = random.floats(TOKENS * shape.query_cols());
    queries.iter_mut().for_each(|query| *query *= 0.2);
    (queries, random.floats(TOKENS * shape.cached()))
}

/// Two sequences, fed in chunks of random lengths.
fn check(level: Level, kv_dtype: KvDtype, seed: u64, tolerance: f64) {
    let mut rig = Rig::new(level, 1 + seed as usize % 2, kv_dtype);
    rig.random = Random(seed);
    let shape = Shape::random(&mut rig.random);
    let mut layer = Layer::new(rig, shape);
    let tables = layer.tables();
    let fed = [0, 1].map(|_| inputs(&mut layer.rig.random, &shape));
    let (width, mut got, mut done) = (shape.heads * shape.value, [Vec::new(), Vec::new()], [0, 0]);
    while done[1] < TOKENS {
        let counts = [0, 1].map(|i| (1 + layer.rig.random.below(60)).min(TOKENS - done[i]));
        if counts.contains(&0) {
            break;
        }
        let tokens = counts.map(|count| vec![0; count]);
        let pieces = [0, 1].map(|i| Piece {
            slot: i as u32,
            start: done[i],
            tokens: &tokens[i],
            table: &tables[i],
        });
        let part = |i: usize| {
            let (queries, latent): &(Vec<f32>, Vec<f32>) = &fed[i];
            let queries = &queries[done[i] * shape.query_cols()..];
            let latent = &latent[done[i] * shape.cached()..];
            (&queries[..counts[i] * shape.query_cols()], &latent[..counts[i] * shape.cached()])
        };
        let out = layer.step(&pieces, &[part(0), part(1)]);
        let (first, second) = out.split_at(counts[0] * width);
        got[0].extend(first);
        got[1].extend(second);
        done = [0, 1].map(|i| done[i] + counts[i]);
    }
    for (got, (queries, latent)) in got.iter().zip(&fed) {
        let tokens = got.len() / width;
        let queries = &queries[..tokens * shape.query_cols()];
        let want = layer.oracle(queries, &latent[..tokens * shape.cached()]);
        assert_near(got, &want, tolerance, &format!("{seed} {shape:?} {level:?} {kv_dtype:?}"));
    }
}

#[test]
fn latent_attention_equals_its_oracle() {
    for level in Level::available() {
        (0..8).for_each(|seed| check(level, KvDtype::F32, seed, 1e-5));
    }
}

#[test]
fn a_latent_cache_in_half_precision_comes_near() {
    for level in Level::available() {
        (0..3).for_each(|seed| check(level, KvDtype::F16, seed, 3e-3));
        (0..3).for_each(|seed| check(level, KvDtype::BF16, seed, 2e-2));
    }
}

#[test]
fn chunks_threads_blocks_and_company_do_not_show_in_the_bits() {
    let shape = Shape { heads: 5, nope: 24, latent: 96, value: 20, rope: 16, block_tokens: 64 };
    for level in Level::available() {
        for kv_dtype in [KvDtype::F32, KvDtype::F16] {
            let run = |threads, block_tokens, chunk: usize, company: bool| {
                let shape = Shape { block_tokens, ..shape };
                let mut layer = Layer::new(Rig::new(level, threads, kv_dtype), shape);
                let (queries, latent) = inputs(&mut Random(5), &shape);
                let (other_queries, other_latent) = inputs(&mut Random(6), &shape);
                let tables = layer.tables();
                let (mut out, zeros) = (Vec::new(), vec![0; chunk]);
                for start in (0..TOKENS).step_by(chunk) {
                    let count = chunk.min(TOKENS - start);
                    let part =
                        |x: &'_ [f32], cols: usize| x[start * cols..][..count * cols].to_vec();
                    let cols = (shape.query_cols(), shape.cached());
                    let mine = (part(&queries, cols.0), part(&latent, cols.1));
                    let other = (part(&other_queries, cols.0), part(&other_latent, cols.1));
                    let tokens = &zeros[..count];
                    let piece = |slot: u32, table| Piece { slot, start, tokens, table };
                    let pieces = [piece(1, &tables[1][..]), piece(0, &tables[0][..])];
                    let fed = [(&other.0[..], &other.1[..]), (&mine.0[..], &mine.1[..])];
                    let of = if company { 0..2 } else { 1..2 };
                    let all = layer.step(&pieces[of.clone()], &fed[of]);
                    let width = shape.heads * shape.value;
                    out.extend(all[all.len() - count * width..].iter().map(|x| x.to_bits()));
                }
                out
            };
            let whole = run(1, 64, TOKENS, false);
            for (threads, block_tokens, chunk, company) in
                [(2, 16, 1, false), (2, 64, 17, true), (1, 128, 64, true), (2, 32, TOKENS, true)]
            {
                let got = run(threads, block_tokens, chunk, company);
                assert_eq!(got, whole, "{level:?} {kv_dtype:?} {threads} {block_tokens} {chunk}");
            }
        }
    }
}

#[test]
fn a_cache_or_weights_of_another_shape_are_refused() {
    let shape = Shape { heads: 2, nope: 16, latent: 32, value: 16, rope: 8, block_tokens: 16 };
    let mut layer = Layer::new(Rig::new(Level::best(), 1, KvDtype::F32), shape);
    let table = [BlockId(0), BlockId(99)];
    let upload = |layer: &mut Layer, start| {
        let piece = Piece { slot: 0, start, tokens: &[0], table: &table };
        layer.rig.backend.upload(Arc::new(batch(&[piece]))).unwrap();
    };
    upload(&mut layer, 0);
    let good = layer.args(1);
    let mut refused =
        |args: AttendLatentArgs| layer.rig.backend.attend_latent(&args).unwrap_err().to_string();
    assert!(refused(AttendLatentArgs { layer: 1, ..good }).contains("no cache"));
    assert!(refused(AttendLatentArgs { k_b: good.v_b, ..good }).contains("k_b is [32, 32]"));
    assert!(refused(AttendLatentArgs { scale: f32::NAN, ..good }).contains("scale"));
    let latent = Tensor { cols: 39, ..good.latent };
    assert!(refused(AttendLatentArgs { latent, ..good }).contains("latent"));
    upload(&mut layer, 16);
    let cause = layer.rig.backend.attend_latent(&good).unwrap_err().to_string();
    assert!(cause.contains("table of KV group 0"), "{cause}");
    upload(&mut layer, 0);
    layer.rig.write(good.queries, &[0.0; 48]);
    layer.rig.write(good.latent, &[1.0; 40]);
    layer.rig.backend.attend_latent(&good).unwrap();
}
