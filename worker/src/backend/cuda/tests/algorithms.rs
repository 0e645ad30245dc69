//! A sweep, not a test: which of cuBLASLt's algorithms beat its own first choice on this card.
//!
//! Prints rows for `gemm/algorithms.rs`, in a minute on a GPU:
//! `BINFER_SWEEP=1 cargo test -p binfer-worker faster_algorithms -- --nocapture`.
//! Gemms run out of a graph over weights that do not fit into the cache.

use std::time::Instant;

use binfer_kernels::list;
use binfer_kernels::params::FillParams;

use super::{Half, settings};
use crate::backend::cuda::CudaBackend;
use crate::backend::cuda::ffi::capture::{Capture, CaptureMode};
use crate::backend::cuda::ffi::matmul::{MatmulOperands, MatmulShape};
use crate::backend::cuda::ffi::memory::DeviceBuffer;

/// Rows and columns of weights, and whether sums are added in single precision: a layer of
/// Qwen3-1.7B and one of 8B.
const WEIGHTS: [(u32, u32, bool); 8] = [
    (4096, 2048, false),
    (2048, 2048, true),
    (12_288, 2048, false),
    (2048, 6144, true),
    (6144, 4096, false),
    (4096, 4096, true),
    (24_576, 4096, false),
    (4096, 12_288, true),
];
const TOKENS: [u32; 9] = [320, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192];
/// What weights lie in, and activations and sums.
const WEIGHT_BYTES: usize = 1 << 30;
const OTHER_BYTES: usize = 1 << 30;
/// Gemms of a graph, and its launches: the first ones are not counted.
const GEMMS: usize = 8;
const REPLAYS: usize = 7;
/// A row must be so much faster.
const GAIN_MIN: f64 = 1.03;

struct Bench {
    backend: CudaBackend,
    weights: DeviceBuffer,
    x: DeviceBuffer,
    out: DeviceBuffer,
}

impl Bench {
    fn new(backend: CudaBackend) -> Self {
        let buffer = |bytes| {
            let buffer = DeviceBuffer::new(bytes).unwrap();
            let (out, count) = (buffer.address(), bytes as u64 / 2);
            let params = FillParams { out, count, seed: 1, range: 0.03, reserved: 0 };
            backend.device.launch(list::FILL, [1024, 1, 1], &params).unwrap();
            buffer
        };
        let [weights, x, out] = [WEIGHT_BYTES, OTHER_BYTES, OTHER_BYTES].map(buffer);
        Self { backend, weights, x, out }
    }

    /// Microseconds of a gemm.
    fn time(&mut self, shape: MatmulShape) -> f64 {
        let CudaBackend { gemms, device, .. } = &mut self.backend;
        let (blas, stream) = (gemms.blas(), &device.stream);
        let bytes = 2 * shape.n as usize * shape.k as usize;
        let capture = Capture::begin(stream, CaptureMode::Relaxed).unwrap();
        for index in 0..GEMMS {
            let weight = self.weights.address() + (index * bytes % (WEIGHT_BYTES - bytes)) as u64;
            let weight = weight.next_multiple_of(256);
            let (m, x, out) = (shape.m, self.x.address(), self.out.address());
            blas.matmul(shape, MatmulOperands { m, x, weight, out }, stream).unwrap();
        }
        let graph = capture.end().unwrap().instantiate(stream).unwrap();
        let mut times: Vec<f64> = (0..REPLAYS)
            .map(|_| {
                stream.synchronize().unwrap();
                let began = Instant::now();
                graph.launch(stream).unwrap();
                stream.synchronize().unwrap();
                began.elapsed().as_secs_f64() * 1e6 / GEMMS as f64
            })
            .skip(2)
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
}

#[test]
fn faster_algorithms() {
    if std::env::var("BINFER_SWEEP").is_err() {
        eprintln!("skipped: a sweep, for BINFER_SWEEP=1");
        return;
    }
    let Some(settings) = settings(Half::Bf16) else { return };
    let mut bench = Bench::new(CudaBackend::new(settings).unwrap());
    let card = bench.backend.device.info.name.clone();
    for ((n, k, accumulates), m) in
        WEIGHTS.into_iter().flat_map(|weight| TOKENS.map(|tokens| (weight, tokens)))
    {
        let (weight_stride, out_stride, out_f32) = (k, n, accumulates);
        let shape = MatmulShape { m, n, k, weight_stride, out_stride, accumulates, out_f32 };
        let (version, candidates) = bench.backend.gemms.blas().candidates(shape).unwrap();
        let mut times = Vec::new();
        for words in &candidates {
            bench.backend.gemms.blas().choose(shape, *words).unwrap();
            times.push((bench.time(shape), *words));
        }
        // Again, in the other order: the card's clock changes meanwhile.
        for (time, words) in times.iter_mut().rev() {
            bench.backend.gemms.blas().choose(shape, *words).unwrap();
            *time = time.min(bench.time(shape));
        }
        let first = times[0].0;
        let (best, words) = times.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        println!("{n}x{k} {m} tokens: {first:.1} us, best {best:.1}");
        if first > GAIN_MIN * best {
            println!("row {version} {card:?} {shape:?} {words:?}");
        }
    }
}
