//! The CUDA backend against short oracles in double precision, on a GPU.
//!
//! Without one the tests say so and pass; with `BINFER_REQUIRE_GPU=1` a missing GPU fails them.
//! Activations and cache begin as NaN; every case runs twice and must give the same bits.
#![allow(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]

mod attend;
mod drawing;
mod goldens;
mod graphs;
mod products;
mod tiny;

use std::path::PathBuf;
use std::sync::Arc;

use binfer_kernels::Target;
use binfer_proto::{BlockId, Sampling, SlotId, Token};
use binfer_shard::dequant::dequantize_row;
use binfer_shard::spec::Cut;
use binfer_shard::{DType, LocalPart, LocalTensor};
use half::{bf16, f16};

use super::{CudaBackend, CudaSettings, Half, probe};
use crate::backend::args::{Kind, Tensor};
use crate::backend::tests::{Random, oracle};
use crate::backend::{Backend, MemoryPlan, StepOutput, Weight};
use crate::batch::{Batch, BatchOutput, BatchRow, TokenInput};

/// Both types that a backend computes in.
const HALVES: [Half; 2] = [Half::Bf16, Half::F16];

/// Settings of the backend under test, if there is a GPU.
fn settings(half: Half) -> Option<CudaSettings> {
    let required = std::env::var("BINFER_REQUIRE_GPU").is_ok_and(|value| value == "1");
    if let Err(missing) = probe() {
        assert!(!required, "{missing}");
        eprintln!("skipped: {missing}");
        return None;
    }
    let libraries = std::env::var("BINFER_CUDA_LIBRARIES").unwrap_or_default();
    let wanted = std::env::var("BINFER_KERNELS").unwrap_or_default();
    Some(CudaSettings {
        ordinal: 0,
        half,
        target: Target::ALL.into_iter().find(|target| target.name() == wanted),
        libraries: libraries.split(':').map(PathBuf::from).collect(),
        graphs: true,
        memory_utilization: 0.5,
        threads: 3,
    })
}

/// A weight and its rows as the device has them.
struct Known {
    weight: Weight,
    rows: Vec<Vec<f64>>,
}

/// A backend under test.
struct Rig {
    backend: CudaBackend,
    random: Random,
}

impl Rig {
    fn new(half: Half, seed: u64) -> Option<Self> {
        let settings = settings(half)?;
        Some(Self { backend: CudaBackend::new(settings).unwrap(), random: Random(seed) })
    }

    fn half(&self) -> Half {
        self.backend.settings.half
    }

    /// As the backend's own type has it.
    fn rounded(&self, x: f32) -> f32 {
        match self.half() {
            Half::Bf16 => bf16::from_f32(x).to_f32(),
            Half::F16 => f16::from_f32(x).to_f32(),
        }
    }

    /// Loads a random matrix, of which `fed` columns are fed.
    fn weight(&mut self, dtype: DType, rows: usize, cols: usize) -> Known {
        let packed = self.random.packed(dtype, rows, cols);
        let part = LocalPart {
            source: String::new(),
            dtype,
            rows: rows as u32,
            cols: cols as u32,
            inputs: 0..cols as u32,
            ranges: Vec::new(),
        };
        let mut known = Vec::new();
        for packed in packed.chunks(part.row_bytes() as usize) {
            let mut row = vec![0.0; cols];
            dequantize_row(dtype, packed, &mut row).unwrap();
            let is_vector = rows == 1 || cols == 1;
            let stored = |x: &f32| f64::from(if is_vector { *x } else { self.rounded(*x) });
            known.push(row.iter().map(stored).collect());
        }
        let tensor = LocalTensor { name: "test".into(), cut: Cut::Replicated, parts: vec![part] };
        let open = |_: &LocalPart| {
            let mut left = packed.as_slice();
            Ok(move |out: &mut [u8]| {
                let (now, later) = left.split_at(out.len());
                out.copy_from_slice(now);
                left = later;
                Ok(())
            })
        };
        let weights = self.backend.adopt(&[tensor], open, &mut |_| ()).unwrap();
        Known { weight: weights[0], rows: known }
    }

    /// Takes memory; activations and cache become NaN.
    fn allocate(&mut self, plan: &MemoryPlan) {
        self.backend.allocate(plan).unwrap();
        let stream = &self.backend.device.stream;
        self.backend.memory.arena.fill(0xff, stream).unwrap();
        self.backend.memory.cache().fill(0xff, stream).unwrap();
    }

    /// Writes a tensor; returns it as stored.
    fn write(&mut self, tensor: Tensor, values: &[f32]) -> Vec<f32> {
        assert_eq!(tensor.len(), values.len());
        let half = self.half();
        let bytes: Vec<u8> = match (tensor.kind, half) {
            (Kind::Sum, _) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            (Kind::Inner, Half::Bf16) => {
                values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()
            }
            (Kind::Inner, Half::F16) => {
                values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()
            }
        };
        let (memory, stream) = (&self.backend.memory, &self.backend.device.stream);
        memory.arena.write(4 * tensor.offset, &bytes, stream).unwrap();
        self.read(tensor)
    }

    fn read(&mut self, tensor: Tensor) -> Vec<f32> {
        self.backend.read(tensor).unwrap()
    }

    fn outcome(&mut self) -> StepOutput {
        let ticket = self.backend.commit().unwrap();
        self.backend.collect(ticket).unwrap()
    }

    /// A step of that many tokens: one chunk, or as many decode rows with an output each.
    fn upload(&mut self, tokens: usize, is_decode: bool) {
        let batch = if is_decode {
            let pieces: Vec<_> = (0..tokens).map(|slot| piece(slot as u32, 0, &[0])).collect();
            let mut batch = batch(&pieces);
            batch.outputs = (0..tokens).map(|token| output(token as u32, token, 1)).collect();
            batch
        } else {
            batch(&[piece(0, 0, &vec![0; tokens])])
        };
        self.backend.upload(Arc::new(batch)).unwrap();
    }
}

/// A sequence's part of a batch.
#[derive(Clone, Debug)]
struct Piece {
    slot: u32,
    start: usize,
    tokens: Vec<Token>,
    table: Vec<BlockId>,
}

fn piece(slot: u32, start: usize, tokens: &[Token]) -> Piece {
    Piece { slot, start, tokens: tokens.to_vec(), table: Vec::new() }
}

fn batch(pieces: &[Piece]) -> Batch {
    let mut batch = Batch::default();
    for piece in pieces {
        let (first, count) = (batch.tokens.len(), piece.tokens.len());
        batch.tokens.extend(piece.tokens.iter().map(|token| TokenInput::Known(*token)));
        batch.positions.extend((piece.start..piece.start + count).map(|at| at as u32));
        batch.rows.push(BatchRow {
            slot: SlotId(piece.slot),
            first,
            count,
            start: piece.start,
            block_tables: vec![piece.table.clone()],
        });
    }
    batch
}

fn output(slot: u32, token: usize, position: u32) -> BatchOutput {
    let (slot, sampling) = (SlotId(slot), Sampling::GREEDY);
    BatchOutput { token, slot, sampling, seed: 0, choice: 0, position }
}

/// Memory for steps of up to 512 tokens in 512 slots.
fn plan(arena: usize) -> MemoryPlan {
    MemoryPlan {
        arena,
        tokens_max: 512,
        hidden: 512,
        wide: 512,
        blocks_per_slot: vec![32],
        slots_max: 512,
        outputs_max: 512,
        vocab: 0,
        kv: Vec::new(),
    }
}

/// Tensors one after the other, with room for a bucket's rows; at odd places where not `aligned`.
fn place(shapes: &[(usize, usize, Kind)], aligned: bool) -> (Vec<Tensor>, usize) {
    let mut end = 0;
    let mut next = |(rows, cols, kind): &(usize, usize, Kind)| {
        let tensor = Tensor { offset: end, rows: *rows, cols: *cols, kind: *kind };
        end += (rows.next_multiple_of(64) * cols).next_multiple_of(64);
        end += if aligned { 0 } else { 3 };
        tensor
    };
    (shapes.iter().map(&mut next).collect(), end)
}

/// How far a result may lie off, in units of what went into it: roundings of inputs and result.
fn tolerance(half: Half) -> f64 {
    match half {
        Half::Bf16 => 1.0 / 128.0,
        Half::F16 => 1.0 / 1024.0,
    }
}

/// Every number of `got` is near `want`, which is in double precision.
fn near(got: &[f32], want: &[oracle::Sum], half: Half, what: &str) {
    crate::backend::tests::assert_near(got, want, tolerance(half), what);
}

/// Every number has the same bits.
fn same_bits(one: &[f32], other: &[f32], what: &str) {
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(one) == bits(other), "{what}: bits differ");
}
