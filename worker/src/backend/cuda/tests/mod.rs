//! The CUDA backend against short oracles in double precision, on a GPU.
//!
//! Without one the tests say so and pass; with `BINFER_REQUIRE_GPU=1` a missing GPU fails them.
//! Activations and cache begin as NaN; every case runs twice and must give the same bits.
//! `BINFER_KERNELS` names another image than the device's own: a target, or `stressed`, which is
//! there if the tests were built with `BINFER_STRESS=1`.
#![allow(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]

mod algorithms;
mod attention;
mod choices;
mod ends;
mod failing;
mod formats;
mod fp8_gemm;
mod gemms;
mod goldens;
mod graphs;
mod graphs_failing;
mod latent;
mod latent_oracle;
mod library;
mod lm_head;
mod mixtures;
mod moe;
mod rank_sampling;
mod ranks;
mod sampling;
mod token_masks;

mod stream_k_gemm;
mod stress;
mod timing;
mod tiny;
mod weights;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use weights::Known;

use super::ffi::driver::Context;
use super::memory::StepMemory;
use super::{CudaBackend, CudaSettings, Half, probe};
use crate::backend::args::{Tensor, TensorKind};
use crate::backend::tests::{Random, oracle};
use crate::backend::{Backend, MemoryLayout, RankDevice, StepOutcome};
use crate::batch::{Batch, BatchBlocks, BatchOutput, BatchRow, TokenInput};
use binfer_kernels::Target;
use binfer_proto::{BlockId, Sampling, SlotId, Token};

/// Both types that a backend computes in.
const HALVES: [Half; 2] = [Half::Bf16, Half::F16];

/// Around every tile, every bucket and every change of kernel.
const TOKENS: [usize; 20] =
    [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257];

/// Of these, what a sanitizer has time for: one for each kernel of gemms.
const SANITIZED_TOKENS: [usize; 9] = [1, 9, 17, 33, 65, 127, 129, 255, 257];

fn numbers_of_tokens() -> impl Iterator<Item = usize> {
    TOKENS.into_iter().filter(|tokens| !is_sanitized() || SANITIZED_TOKENS.contains(tokens))
}

/// Tokens of the largest step.
fn tokens_max() -> usize {
    if is_sanitized() { 1200 } else { 8192 }
}

/// Kept as long as the process lives: to make it anew takes longer than most cases.
static CONTEXT: OnceLock<Context> = OnceLock::new();

/// Settings of the backend under test, if there is a GPU.
fn settings(half: Half) -> Option<CudaSettings> {
    let required = std::env::var("BINFER_REQUIRE_GPU").is_ok_and(|value| value == "1");
    if let Err(missing) = probe() {
        assert!(!required, "{missing}");
        eprintln!("skipped: {missing}");
        return None;
    }
    CONTEXT.get_or_init(|| Context::new(0).unwrap());
    let libraries = std::env::var("BINFER_CUDA_LIBRARIES").unwrap_or_default();
    let wanted = wanted_kernels();
    let target = Target::ALL.into_iter().find(|target| target.name() == wanted);
    let known = target.is_some() || ["", STRESSED].contains(&wanted.as_str());
    assert!(known, "BINFER_KERNELS={wanted}");
    Some(CudaSettings {
        ordinal: 0,
        half,
        target,
        libraries: libraries.split(':').map(PathBuf::from).collect(),
        graphs: true,
        memory_utilization: 0.5,
        threads: 3,
        world: 1,
    })
}

/// Elements between tensors.
const GAP: usize = 64;
/// Asks for the stressed image in all tests.
const STRESSED: &str = "stressed";

fn wanted_kernels() -> String {
    std::env::var("BINFER_KERNELS").unwrap_or_default()
}

/// A sanitizer is watching: every buffer is an allocation of its own, and there is less of all.
fn is_sanitized() -> bool {
    std::env::var("BINFER_SANITIZED").is_ok_and(|value| value == "1")
}

/// Takes memory for steps.
fn allocate(backend: &mut CudaBackend, layout: &MemoryLayout) {
    backend.allocate(layout).unwrap();
    if is_sanitized() {
        let taken = StepMemory::take_apart(layout, &backend.device.stream).unwrap();
        backend.take_memory(layout, taken).unwrap();
    }
}

/// Shared memory of a block on devices that have the least: compute capability 8.6 and 8.9.
const SHARED_BYTES_LEAST: u32 = 99 << 10;

/// A backend with the kernels that are asked for; portable ones have to do with the least memory.
fn backend(settings: CudaSettings) -> CudaBackend {
    let mut backend = CudaBackend::new(settings).unwrap();
    if backend.device.target == Target::Compute80 {
        backend.device.limit_shared_memory(SHARED_BYTES_LEAST).unwrap();
    }
    if wanted_kernels() == STRESSED {
        assert!(backend.device.stress().unwrap(), "built without BINFER_STRESS=1");
    }
    backend
}

/// A backend under test.
struct Rig {
    backend: CudaBackend,
    random: Random,
    /// Where in the arena nothing may be written: elements from each of these on.
    gaps: Vec<usize>,
}

impl Rig {
    fn new(half: Half, seed: u64) -> Option<Self> {
        let settings = settings(half)?;
        Some(Self { backend: backend(settings), random: Random(seed), gaps: Vec::new() })
    }

    /// Begins another case. The device stays: to load its kernels takes longer than most cases.
    fn begin(&mut self, seed: u64) {
        self.random = Random(seed);
    }

    fn half(&self) -> Half {
        self.backend.settings.half
    }

    /// As the backend's own type has it.
    fn rounded(&self, x: f32) -> f32 {
        self.half().to_f32(self.half().to_bytes(x))
    }

    /// Takes memory; activations and cache become NaN.
    fn allocate(&mut self, layout: &MemoryLayout) {
        allocate(&mut self.backend, layout);
        self.backend.memory.poison(&self.backend.device.stream).unwrap();
    }

    /// Tensors one after the other, with room for a bucket's rows and a gap behind it that must
    /// stay as it is; at odd places where not `aligned`.
    fn place(
        &mut self,
        shapes: &[(usize, usize, TensorKind)],
        aligned: bool,
    ) -> (Vec<Tensor>, usize) {
        let mut end = 0;
        self.gaps.clear();
        let mut next = |(rows, cols, kind): &(usize, usize, TensorKind)| {
            let tensor = Tensor { offset: end, rows: *rows, cols: *cols, kind: *kind };
            let room = (rows.next_multiple_of(64) * cols).next_multiple_of(64);
            self.gaps.push(end + room);
            end += room + GAP + if aligned { 0 } else { 3 };
            tensor
        };
        (shapes.iter().map(&mut next).collect(), end)
    }

    /// Writes a tensor; returns it as stored.
    fn write(&mut self, tensor: Tensor, values: &[f32]) -> Vec<f32> {
        assert_eq!(tensor.len(), values.len());
        let half = self.half();
        let bytes: Vec<u8> = match tensor.kind {
            TensorKind::Sum => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            TensorKind::Inner => values.iter().flat_map(|x| half.to_bytes(*x)).collect(),
        };
        let (memory, stream) = (&self.backend.memory, &self.backend.device.stream);
        memory.arena.write(4 * tensor.offset, &bytes, stream).unwrap();
        self.read(tensor)
    }

    fn read(&mut self, tensor: Tensor) -> Vec<f32> {
        self.backend.read(tensor).unwrap()
    }

    /// Ends the step; nothing was written between tensors.
    fn outcome(&mut self) -> StepOutcome {
        let ticket = self.backend.commit().unwrap();
        let outcome = self.backend.collect(ticket).unwrap();
        for gap in self.gaps.clone() {
            let zone = Tensor { offset: gap, rows: 1, cols: GAP, kind: TensorKind::Sum };
            let kept = self.read(zone).iter().all(|x| x.to_bits() == u32::MAX);
            assert!(kept, "something was written past element {gap}");
        }
        outcome
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

/// Calls `test` with both types, on devices with kernels.
fn for_halves(test: impl Fn(&mut Rig)) {
    for half in HALVES {
        let Some(mut rig) = Rig::new(half, 0) else { return };
        test(&mut rig);
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
        let (slot, ids) = (SlotId(piece.slot), piece.table.clone());
        batch.new_blocks.push(BatchBlocks { slot, kv_group: 0, first: 0, ids });
        batch.rows.push(BatchRow { slot, first, count, start: piece.start });
    }
    batch
}

/// Wants a logprob, so that its logits are written.
fn output(slot: u32, token: usize, position: u32) -> BatchOutput {
    let (slot, sampling) = (SlotId(slot), Sampling::GREEDY);
    BatchOutput { token, slot, sampling, seed: 0, choice: 0, position, biases: 0, logprobs: 1 }
}

/// Memory for steps of up to [`tokens_max`] tokens in 512 slots.
fn layout(arena: usize) -> MemoryLayout {
    MemoryLayout {
        arena,
        tokens_max: tokens_max(),
        hidden: 512,
        normed_max: 512,
        intermediate: 512,
        blocks_per_slot: vec![128],
        slots_max: 512,
        outputs_max: 512,
        vocab: 0,
        vocab_rows: Vec::new(),
        kv: Vec::new(),
        experts_max: 0,
        experts_per_token_max: 0,
        stamps_max: 0,
    }
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
    let (one, other) = (one.iter().map(|x| x.to_bits()), other.iter().map(|x| x.to_bits()));
    assert!(one.eq(other), "{what}: bits differ");
}
