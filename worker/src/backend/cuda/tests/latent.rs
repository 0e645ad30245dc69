//! Latent attention over paged blocks in any order, in a cache of NaN.

use std::sync::Arc;

use binfer_proto::BlockId;
use binfer_shard::DType;
use binfer_shard::spec::KvShape;

use super::attention::tables;
use super::latent_oracle::Shape;
use super::{
    HALVES, Half, Known, Piece, Rig, batch, is_sanitized, layout, numbers_of_tokens, output,
    same_bits, tokens_max,
};
use crate::backend::args::{Tensor, TensorKind};
use crate::backend::tests::assert_near;
use crate::backend::{Backend, GraphCapture, KvLayerLayout, StepMode};

const BLOCK_TOKENS: usize = 64;
/// Blocks of the cache that no sequence owns.
const UNOWNED: usize = 3;

/// Published: DeepSeek-V2-Lite, or a rank of eight of DeepSeek-V3.
pub(super) const PUBLISHED: Shape =
    Shape { heads: 16, nope: 128, rope_dim: 64, latent_dim: 512, value_dim: 128 };

/// A published shape, two tiles of heads of which one is not full, that of a tiny checkpoint, and
/// shapes that nobody publishes.
const SHAPES: [Shape; 5] = [
    PUBLISHED,
    Shape { heads: 21, nope: 32, value_dim: 24, ..PUBLISHED },
    Shape { heads: 5, nope: 24, rope_dim: 8, latent_dim: 32, value_dim: 16 },
    Shape { heads: 3, nope: 21, rope_dim: 10, latent_dim: 70, value_dim: 9 },
    Shape { heads: 1, nope: 64, rope_dim: 64, latent_dim: 128, value_dim: 72 },
];

/// Sequences that are fed piece by piece.
pub(super) struct Feeding {
    shape: Shape,
    /// Of sequences, and of the tokens of a chunk, every so manieth is compared with the oracle.
    sequences_compared: usize,
    pub(super) compared: usize,
    pub(super) repeats: usize,
    /// The latent's norm, `k_b`, `v_b`.
    weights: [Known; 3],
    tables: Vec<Vec<BlockId>>,
    queries: Vec<Vec<f32>>,
    latents: Vec<Vec<f32>>,
    done: Vec<usize>,
    /// Queries, latents, out.
    at: Vec<Tensor>,
}

impl Feeding {
    pub(super) fn new(rig: &mut Rig, shape: Shape, sequences: usize, tokens: usize) -> Self {
        let Shape { heads, nope, latent_dim, value_dim, .. } = shape;
        let weights = [
            rig.weight(DType::F32, 1, latent_dim),
            rig.weight(DType::BF16, heads * latent_dim, nope),
            rig.weight(DType::BF16, heads * value_dim, latent_dim),
        ];
        let rows = tokens_max();
        let widths = [heads * shape.query_dim(), shape.entry(), heads * value_dim];
        let aligned = nope.is_multiple_of(8);
        let (at, arena) = rig.place(&widths.map(|width| (rows, width, TensorKind::Inner)), aligned);
        let each = tokens.div_ceil(BLOCK_TOKENS);
        let kv = KvLayerLayout {
            kv_group: 0,
            blocks: sequences * each + UNOWNED.max(each),
            block_tokens: BLOCK_TOKENS,
            shape: KvShape::Latent { width: shape.entry() as u32 },
        };
        rig.allocate(&crate::backend::MemoryLayout { kv: vec![kv], ..layout(arena) });
        let mut stored = |width: usize| -> Vec<Vec<f32>> {
            let values =
                (0..sequences).map(|_| rig.random.floats(tokens * width)).collect::<Vec<_>>();
            let rounded = |x: Vec<f32>| x.into_iter().map(|x| rig.rounded(x)).collect();
            values.into_iter().map(rounded).collect()
        };
        let (queries, latents) = (stored(widths[0]), stored(widths[1]));
        let mut tables = tables(&mut rig.random, sequences + 1, each);
        tables.truncate(sequences);
        Self {
            shape,
            sequences_compared: 1,
            compared: 1,
            repeats: 2,
            weights,
            tables,
            queries,
            latents,
            done: vec![0; sequences],
            at,
        }
    }

    /// The step that feeds `counts` tokens of each sequence: its batch, queries and latents.
    fn fed(&self, counts: &[usize]) -> (crate::batch::Batch, Vec<f32>, Vec<f32>) {
        let (mut queries, mut latents, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
        for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let start = self.done[index];
            let of = |all: &[Vec<f32>], width: usize| {
                all[index][start * width..][..count * width].to_vec()
            };
            queries.extend(of(&self.queries, self.shape.heads * self.shape.query_dim()));
            latents.extend(of(&self.latents, self.shape.entry()));
            let (tokens, table) = (vec![0; *count], self.tables[index].clone());
            pieces.push(Piece { slot: index as u32, start, tokens, table });
        }
        let mut batch = batch(&pieces);
        if counts.iter().all(|count| *count <= 1) {
            batch.outputs = (0..pieces.len()).map(|row| output(row as u32, row, 1)).collect();
        }
        (batch, queries, latents)
    }

    /// Feeds `counts` tokens of each sequence, again and again to the same bits, and compares.
    pub(super) fn step(&mut self, rig: &mut Rig, counts: &[usize], what: &str) -> Vec<f32> {
        let (batch, queries, latents) = self.fed(counts);
        let (rows, batch) = (batch.tokens.len(), Arc::new(batch));
        let args = self.shape.args(&self.at, rows, &self.weights);
        let mut run = || {
            rig.write(args.queries, &queries);
            rig.write(args.latent, &latents);
            if rig.backend.upload(Arc::clone(&batch)).unwrap() == StepMode::Eager {
                rig.backend.attend_latent(&args).unwrap();
            }
            let got = rig.read(args.out);
            rig.outcome();
            got
        };
        let what = format!("{what} {:?} {counts:?} from {:?}", self.shape, self.done);
        let got = run();
        (1..self.repeats).for_each(|_| same_bits(&got, &run(), &what));
        self.compare(rig.half(), counts, &got, &what);
        got
    }

    fn compare(&mut self, half: Half, counts: &[usize], got: &[f32], what: &str) {
        let out_width = self.shape.heads * self.shape.value_dim;
        let (mut want, mut compared, mut first) = (Vec::new(), Vec::new(), 0);
        for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (start, fed) = (self.done[index], first..first + count);
            self.done[index] += count;
            first += count;
            if index % self.sequences_compared != 0 {
                continue;
            }
            let wanted: Vec<usize> = (start..start + count).step_by(self.compared).collect();
            let stored = (&self.queries[index][..], &self.latents[index][..]);
            let weights = self.weights.each_ref().map(|known| &known.rows[..]);
            want.extend(self.shape.oracle(stored, weights, &wanted));
            for token in fed.step_by(self.compared) {
                compared.extend_from_slice(&got[token * out_width..][..out_width]);
            }
        }
        // Queries, entries and sums are rounded on the way.
        let tolerance = if half == Half::Bf16 { 2e-2 } else { 3e-3 };
        assert_near(&compared, &want, tolerance, what);
    }
}

/// All shapes in all types; under a sanitizer every shape in one of the types.
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
        feeding.compared = if shape.latent_dim > 128 { 11 } else { 1 };
        steps.iter().for_each(|counts| drop(feeding.step(rig, counts, what)));
    });
}

#[test]
fn decode_rows_of_any_length_equal_their_oracle() {
    let lengths = [1, 0, 62, 63, 64, 65, 126, 127, 128, 5, 190, 255];
    for_all_shapes(|rig, shape, what| {
        let mut feeding = Feeding::new(rig, shape, lengths.len(), 320);
        feeding.compared = 64;
        feeding.step(rig, &lengths, &format!("{what} prompts"));
        feeding.compared = 1;
        for _ in 0..if is_sanitized() { 1 } else { 3 } {
            feeding.step(rig, &[1; 12], &format!("{what} decode"));
        }
    });
}

#[test]
fn any_number_of_decode_rows_and_of_tokens_of_a_chunk() {
    let shapes = [(Half::Bf16, SHAPES[0]), (Half::F16, SHAPES[2]), (Half::Bf16, SHAPES[3])];
    for (half, shape) in shapes {
        let Some(mut rig) = Rig::new(half, 21) else { return };
        for count in numbers_of_tokens().filter(|count| !is_sanitized() || *count < 60) {
            let what = format!("{half:?} {count}");
            let mut feeding = Feeding::new(&mut rig, shape, count, 2);
            feeding.sequences_compared = 1 + count / 6;
            feeding.step(&mut rig, &vec![1; count], &what);
            feeding.step(&mut rig, &vec![1; count], &what);
            let mut feeding = Feeding::new(&mut rig, shape, 1, 2 * count);
            feeding.compared = 19;
            feeding.step(&mut rig, &[count], &what);
            feeding.step(&mut rig, &[count], &what);
        }
    }
}

/// More tokens than the workspace holds at once, in kernels of published and of any shapes.
#[test]
fn a_chunk_and_decode_rows_that_are_done_in_parts() {
    for (half, rope_dim) in [(Half::Bf16, 64), (Half::F16, 32)] {
        let shape = Shape { heads: 128, nope: 32, rope_dim, ..PUBLISHED };
        let Some(mut rig) = Rig::new(half, 31) else { return };
        let mut feeding = Feeding::new(&mut rig, shape, 2, 640);
        feeding.compared = 83;
        let (tokens, sequences) = if is_sanitized() { (250, 245) } else { (600, 300) };
        feeding.step(&mut rig, &[tokens, 64], "parts");
        feeding.step(&mut rig, &[1, 1], "parts");
        let mut feeding = Feeding::new(&mut rig, shape, sequences, 10);
        feeding.sequences_compared = 23;
        let mut counts = vec![1; sequences];
        feeding.step(&mut rig, &counts, "decode rows in parts");
        counts[sequences - 1] = 9;
        feeding.step(&mut rig, &counts, "decode rows and a chunk in parts");
    }
}

/// Chunks of several sequences, which begin and end anywhere in a page, beside decode rows; and
/// more heads than there is room for at once.
#[test]
fn expanded_chunks_equal_their_oracle() {
    let steps: [&[usize]; 4] = [&[257, 1, 130, 0], &[131, 193, 1, 1], &[1, 300, 1, 511], &[1; 4]];
    let steps = if is_sanitized() { &steps[..2] } else { &steps[..] };
    for half in HALVES {
        let Some(mut rig) = Rig::new(half, 35) else { return };
        let mut feeding = Feeding::new(&mut rig, PUBLISHED, 4, 640);
        feeding.compared = 37;
        steps.iter().for_each(|counts| drop(feeding.step(&mut rig, counts, "expanded")));
    }
    let Some(mut rig) = Rig::new(Half::Bf16, 36) else { return };
    let mut feeding = Feeding::new(&mut rig, Shape { heads: 128, ..PUBLISHED }, 2, 1280);
    (feeding.compared, feeding.repeats) = (211, 1);
    let counts = if is_sanitized() { [160, 1] } else { [1100, 130] };
    feeding.step(&mut rig, &counts, "heads in parts");
    feeding.step(&mut rig, &[140, 1], "heads in parts");
}

/// Enough pages that many blocks share a row, beside one that is short.
#[test]
fn long_decode_rows_are_merged_from_many_blocks() {
    for half in HALVES {
        let Some(mut rig) = Rig::new(half, 41) else { return };
        let mut feeding = Feeding::new(&mut rig, PUBLISHED, 3, 2560);
        feeding.compared = 499;
        for counts in [[1000, 100, 3], [1000, 0, 0], [500, 0, 0]] {
            feeding.step(&mut rig, &counts, "prompts");
        }
        for counts in [[1, 0, 0], [1, 1, 1], [0, 1, 1]] {
            feeding.step(&mut rig, &counts, "decode");
        }
    }
}

#[test]
fn a_graph_has_the_bits_of_single_launches_whatever_part_of_it_is_real() {
    for (half, shape) in [(Half::Bf16, PUBLISHED), (Half::F16, SHAPES[3])] {
        let Some(mut rig) = Rig::new(half, 51) else { return };
        let mut feeding = Feeding::new(&mut rig, shape, 24, 80);
        feeding.compared = 64;
        feeding.step(&mut rig, &[49; 24], "prompts");
        rig.backend.graphs.buckets = vec![24];
        let single: Vec<f32> = {
            let alone = |feeding: &mut Feeding, rig: &mut Rig, rows: usize| {
                let mut counts = vec![0; 24];
                counts[..rows].fill(1);
                let done = feeding.done.clone();
                let got = feeding.step(rig, &counts, "single launches");
                feeding.done = done;
                got
            };
            [1, 23, 24].map(|rows| alone(&mut feeding, &mut rig, rows)).concat()
        };
        rig.backend.begin_capture(24).unwrap();
        rig.backend.attend_latent(&shape.args(&feeding.at, 24, &feeding.weights)).unwrap();
        rig.backend.end_capture().unwrap();
        let mut replayed = Vec::new();
        for rows in [1, 23, 24] {
            let mut counts = vec![0; 24];
            counts[..rows].fill(1);
            let (batch, queries, latents) = feeding.fed(&counts);
            let args = shape.args(&feeding.at, rows, &feeding.weights);
            rig.write(args.queries, &queries);
            rig.write(args.latent, &latents);
            assert_eq!(rig.backend.upload(Arc::new(batch)).unwrap(), StepMode::Graph);
            replayed.extend(rig.read(args.out));
            rig.outcome();
        }
        same_bits(&replayed, &single, &format!("{half:?} {shape:?}"));
    }
}
