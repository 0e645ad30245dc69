//! The CPU backend against short oracles in double precision, on random shapes, with memory that
//! was poisoned before; and bits of a token's result in all kinds of company.
#![allow(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]

mod attend;
mod company;
mod contracts;
mod gemm;
mod latent;
mod mixture;
mod moe;
mod moe_ranks;
mod random_weights;
mod ranks;
mod unlike_layers;

use std::ops::Range;
use std::sync::Arc;

use binfer_proto::{BlockId, Sampling, SlotId, Token};
use binfer_shard::dequant::dequantize_row;
use binfer_shard::spec::TensorCut;
use binfer_shard::{DType, LocalPart, LocalTensor};

use super::cache::{CacheData, KvElement, KvPair};
use super::matrix::PackedMatrix;
use super::panel::{Panel, PanelSource};
use super::{CpuBackend, CpuSettings, KvDtype, Level};
use crate::backend::args::{Tensor, TensorKind};
use crate::backend::tests::{Random, assert_near, oracle};
use crate::backend::{Backend, KvLayerLayout, MemoryLayout, RankDevice, StepOutcome, Weight};
use crate::batch::{Batch, BatchBlocks, BatchOutput, BatchRow, TokenInput};

/// A weight and its rows as the oracle sees them.
struct Known {
    weight: Weight,
    /// `[rows][fed columns]`.
    rows: Vec<Vec<f64>>,
}

/// Parts of a weight, and how they are cut.
struct Parts<'a> {
    parts: &'a [(DType, usize)],
    cols: usize,
    inputs: Range<usize>,
    cut: TensorCut,
}

/// A backend under test.
struct Rig {
    backend: CpuBackend,
    random: Random,
}

impl Rig {
    fn new(level: Level, threads: usize, kv_dtype: KvDtype) -> Self {
        let settings = CpuSettings { threads, kv_dtype, level };
        Self { backend: CpuBackend::new(settings).unwrap(), random: Random(7) }
    }

    /// Loads random parts, of which `inputs` columns are fed.
    fn weight(&mut self, parts: &[(DType, usize)], cols: usize, inputs: Range<usize>) -> Known {
        let packed: Vec<_> =
            parts.iter().map(|(dtype, rows)| self.random.packed(*dtype, *rows, cols)).collect();
        self.weight_of(parts, cols, inputs, &packed)
    }

    fn weight_of(
        &mut self,
        parts: &[(DType, usize)],
        cols: usize,
        inputs: Range<usize>,
        packed: &[Vec<u8>],
    ) -> Known {
        let parts = Parts { parts, cols, inputs, cut: TensorCut::Replicated };
        self.weight_of_parts(&parts, packed)
    }

    /// Loads random parts that are cut so.
    fn stack(&mut self, parts: &[(DType, usize)], cols: usize, cut: TensorCut) -> Known {
        let packed: Vec<_> =
            parts.iter().map(|(dtype, rows)| self.random.packed(*dtype, *rows, cols)).collect();
        self.weight_of_parts(&Parts { parts, cols, inputs: 0..cols, cut }, &packed)
    }

    fn weight_of_parts(&mut self, of: &Parts<'_>, packed: &[Vec<u8>]) -> Known {
        let Parts { parts, cols, inputs, cut } = of;
        let local = |(dtype, rows): &(DType, usize)| LocalPart {
            source: String::new(),
            dtype: *dtype,
            rows: *rows as u32,
            cols: *cols as u32,
            inputs: inputs.start as u32..inputs.end as u32,
            ranges: Vec::new(),
        };
        let parts: Vec<_> = parts.iter().map(local).collect();
        let mut known = Vec::new();
        for (part, packed) in parts.iter().zip(packed) {
            let mut row = vec![0.0; *cols];
            for packed in packed.chunks(part.row_bytes() as usize) {
                dequantize_row(part.dtype, packed, &mut row).unwrap();
                known.push(row[inputs.clone()].iter().map(|x| f64::from(*x)).collect());
            }
        }
        let tensor = LocalTensor { name: "test".to_owned(), cut: *cut, parts };
        Known { weight: self.backend.pack(&tensor, packed).unwrap(), rows: known }
    }

    /// A norm's scale.
    fn norm(&mut self, cols: usize) -> Known {
        self.weight(&[(DType::F32, 1)], cols, 0..cols)
    }

    /// Takes memory and fills it with NaN.
    fn allocate(&mut self, arena: usize, vocab: usize, kv: Vec<KvLayerLayout>) {
        self.allocate_for(MemoryLayout { arena, vocab, kv, ..MemoryLayout::default() });
    }

    /// Takes the memory of `layout`, which says nothing of slots, and fills it with NaN.
    fn allocate_for(&mut self, layout: MemoryLayout) {
        let layout =
            MemoryLayout { blocks_per_slot: vec![64], slots_max: 16, outputs_max: 64, ..layout };
        self.backend.allocate(&layout).unwrap();
        self.backend.arena.fill(f32::NAN);
        self.backend.work.gemm.scratch.as_flattened_mut().fill(f32::NAN);
        self.backend.work.exchanged.fill(f32::NAN);
        self.poison_panel();
        for cache in &mut self.backend.caches {
            match &mut cache.data {
                CacheData::F32(pair) => poison(pair),
                CacheData::BF16(pair) => poison(pair),
                CacheData::F16(pair) => poison(pair),
            }
        }
    }

    /// Leaves the inputs of one wide gemm behind, none of them a number.
    fn poison_panel(&mut self) {
        const COLS: usize = 1 << 15;
        let CpuBackend { team, settings, work, .. } = &mut self.backend;
        let wide = PackedMatrix::from_packed(COLS, 0..COLS, &[]).unwrap();
        let x = vec![f32::NAN; COLS];
        work.gemm.panel.reserve(Panel::floats(1, wide.groups()));
        let source = PanelSource { tokens: 1, row: |_| x.as_slice(), norm: None };
        work.gemm.panel.fill(team, settings.level, &wide, source);
    }

    fn write(&mut self, tensor: Tensor, values: &[f32]) {
        self.backend.arena[tensor.offset..][..tensor.len()].copy_from_slice(values);
    }

    fn read(&mut self, tensor: Tensor) -> Vec<f32> {
        self.backend.read(tensor).unwrap()
    }

    /// Ends the step.
    fn outcome(&mut self) -> StepOutcome {
        let ticket = self.backend.commit().unwrap();
        self.backend.collect(ticket).unwrap()
    }

    /// A step of that many tokens without sequences that matter.
    fn upload_tokens(&mut self, tokens: &[Token], outputs: &[usize]) {
        let row = Piece { slot: 0, start: 0, tokens, table: &[] };
        let mut batch = batch(&[row]);
        batch.outputs = outputs.iter().map(|token| output(0, *token, 0)).collect();
        self.backend.upload(Arc::new(batch)).unwrap();
    }
}

fn poison<E: KvElement>(pair: &mut KvPair<E>) {
    pair.keys.fill(E::encode(f32::NAN));
    pair.values.fill(E::encode(f32::NAN));
}

/// A sequence's part of a batch.
#[derive(Clone, Copy)]
struct Piece<'a> {
    slot: u32,
    start: usize,
    tokens: &'a [Token],
    table: &'a [BlockId],
}

fn batch(pieces: &[Piece<'_>]) -> Batch {
    let mut batch = Batch::default();
    for piece in pieces {
        let (first, count) = (batch.tokens.len(), piece.tokens.len());
        batch.tokens.extend(piece.tokens.iter().map(|token| TokenInput::Known(*token)));
        batch.positions.extend((piece.start..piece.start + count).map(|position| position as u32));
        let (slot, start) = (SlotId(piece.slot), piece.start);
        let ids = piece.table.to_vec();
        batch.new_blocks.push(BatchBlocks { slot, kv_group: 0, first: 0, ids });
        batch.rows.push(BatchRow { slot, first, count, start });
    }
    batch
}

fn output(slot: u32, token: usize, position: u32) -> BatchOutput {
    let (slot, sampling) = (SlotId(slot), Sampling::GREEDY);
    BatchOutput { token, slot, sampling, seed: 0, choice: 0, position, biases: 0, logprobs: 0 }
}

/// Tensors one after the other.
fn place(shapes: &[(usize, usize)]) -> (Vec<Tensor>, usize) {
    let mut end = 0;
    let mut next = |(rows, cols): &(usize, usize)| {
        let tensor = Tensor { offset: end, rows: *rows, cols: *cols, kind: TensorKind::Sum };
        end += tensor.len() + 3;
        tensor
    };
    (shapes.iter().map(&mut next).collect(), end)
}
