//! Gemms of many tokens: cuBLASLt, whose sums another kernel finishes.
//!
//! A model has few gemms, and algorithms are chosen for a ladder of token counts: all of them
//! before the first step, once a captured step has shown what the gemms are. A step's own count
//! takes the algorithm of the next rung. Decode steps do not come here: their CUDA graphs hold only
//! our own kernels.

use std::collections::BTreeSet;

use binfer_kernels::gemm::Epilogue;
use binfer_kernels::gemm_params::EpilogueParams;
use binfer_kernels::list;

use super::config::{library_m_min, library_takes};
use super::desc::GemmCall;
use crate::backend::BackendError;
use crate::backend::cuda::device::CudaDevice;
use crate::backend::cuda::ffi::blas::Blas;
use crate::backend::cuda::ffi::capture::{Capture, CaptureMode};
use crate::backend::cuda::ffi::matmul::{MatmulOperands, MatmulShape};
use crate::backend::cuda::formats::half::Half;
use crate::backend::cuda::launch::{Launcher, to_u32};
use crate::backend::cuda::ledger::DeviceLedger;

/// The ladder's rungs lie so many tokens apart, or a sixteenth of the next power of two.
const RUNG_TOKENS_MIN: u32 = 64;
/// Elements of a thread of `glu_wide`.
const GLU_ELEMENTS: u32 = 8;

/// cuBLASLt, and the model's gemms as far as they were seen.
pub(super) struct GemmLibrary {
    pub(super) blas: Blas,
    seen: BTreeSet<Seen>,
    is_prepared: bool,
}

/// A gemm of any number of tokens, the most that it can have, and a weight that it multiplies by.
type Seen = (MatmulShape, u32, u64);

/// The rung of the ladder that so many tokens stand on.
fn rung(tokens: u32) -> u32 {
    tokens.next_multiple_of((tokens.next_power_of_two() / 16).max(RUNG_TOKENS_MIN))
}

/// All rungs for `least` to `most` tokens; the last one is `most` itself.
fn rungs(least: u32, most: u32) -> impl Iterator<Item = u32> {
    let step = move |tokens: u32| (tokens <= most).then(|| rung(tokens).min(most));
    std::iter::successors(step(least), move |tokens| step(tokens + 1))
}

/// What the library is asked for.
fn matmul_shape(gemm: &GemmCall) -> MatmulShape {
    let n = to_u32(gemm.weight.rows);
    MatmulShape {
        m: rung(gemm.m).min(gemm.m_max).max(gemm.m),
        n,
        k: to_u32(gemm.weight.cols),
        weight_stride: to_u32(gemm.weight.stride),
        out_stride: if gemm.epilogue == Epilogue::Glu { n } else { gemm.out_stride },
        accumulates: gemm.epilogue == Epilogue::AddF32,
        out_f32: matches!(gemm.epilogue, Epilogue::AddF32 | Epilogue::StoreF32),
    }
}

impl GemmLibrary {
    pub(super) fn new(blas: Blas) -> Self {
        Self { blas, seen: BTreeSet::new(), is_prepared: false }
    }

    /// Remembers a gemm of a captured step: steps of many tokens will have it, too.
    pub(super) fn expect(&mut self, gemm: &GemmCall, half: Half) {
        if library_takes(&gemm.desc(half)) {
            let seen = (MatmulShape { m: 0, ..matmul_shape(gemm) }, gemm.m_max);
            if !self.seen.iter().any(|(shape, m_max, _)| (*shape, *m_max) == seen) {
                self.seen.insert((seen.0, seen.1, gemm.weight.address));
            }
        }
    }

    /// Chooses the algorithms of all gemms that were seen, and has the library load its kernels:
    /// each is captured, on operands at `scratch`, and the graph dropped.
    pub(super) fn prepare(
        &mut self,
        device: &CudaDevice,
        ledger: &mut DeviceLedger,
        scratch: u64,
    ) -> Result<(), BackendError> {
        if std::mem::replace(&mut self.is_prepared, true) {
            return Ok(());
        }
        let least = library_m_min(&device.chip());
        let Self { blas, seen, .. } = self;
        let prepare = || {
            let capture = Capture::begin(&device.stream, CaptureMode::Relaxed)?;
            for (shape, m_max, weight) in &*seen {
                for m in rungs(least, *m_max) {
                    let operands = MatmulOperands { m, x: scratch, weight: *weight, out: scratch };
                    blas.matmul(MatmulShape { m, ..*shape }, operands, &device.stream)?;
                }
            }
            capture.end().map(drop)
        };
        ledger.count("cuBLASLt", &device.context, prepare)
    }

    /// Enqueues a gemm; gate and up lie at `gate_up` on their way to the activation.
    pub(super) fn launch(
        &mut self,
        on: &Launcher<'_>,
        gemm: &GemmCall,
        gate_up: u64,
    ) -> Result<(), BackendError> {
        let out = if gemm.epilogue == Epilogue::Glu { gate_up } else { gemm.out };
        let operands = MatmulOperands { m: gemm.m, x: gemm.x, weight: gemm.weight.address, out };
        self.blas.matmul(matmul_shape(gemm), operands, &on.device.stream)?;
        on.device.note_launch("cublasLt");
        finish(on, gemm, out)
    }
}

/// Enqueues what the library leaves of an epilogue.
fn finish(on: &Launcher<'_>, gemm: &GemmCall, sums: u64) -> Result<(), BackendError> {
    let params = EpilogueParams {
        sums,
        bias: gemm.bias_address(),
        out: gemm.out,
        tokens: gemm.m,
        out_features: gemm.out_features(),
    };
    let kernel = match gemm.epilogue {
        Epilogue::Glu if params.out_features.is_multiple_of(GLU_ELEMENTS) => {
            let threads = list::ALL[list::GLU_WIDE.index].threads * GLU_ELEMENTS;
            let grid = [params.out_features.div_ceil(threads), params.tokens, 1];
            return on.device.launch(list::GLU_WIDE, grid, &params);
        }
        Epilogue::Glu => list::GLU,
        Epilogue::Store if gemm.bias.is_some() => list::BIAS,
        Epilogue::AddF32 if gemm.bias.is_some() => list::BIAS_RESIDUAL,
        _ => return Ok(()),
    };
    let threads = list::ALL[kernel.index].threads;
    let grid = [params.tokens, params.out_features.div_ceil(threads), 1];
    on.device.launch(kernel, grid, &params)
}

#[cfg(test)]
mod tests {
    use super::{rung, rungs};

    #[test]
    fn rungs_lie_at_most_an_eighth_apart() {
        assert_eq!(
            [32, 64, 65, 257, 1024, 1025, 4097].map(rung),
            [64, 64, 128, 320, 1024, 1152, 4608]
        );
        for tokens in 512..20_000 {
            let up = rung(tokens);
            assert!(up >= tokens && 8 * (up - tokens) <= tokens && rung(up) == up, "{tokens}");
        }
    }

    #[test]
    fn every_count_stands_on_a_rung_that_is_prepared() {
        for (least, most) in [(257, 2048), (32, 100), (257, 8192), (257, 300), (257, 256)] {
            let prepared: Vec<u32> = rungs(least, most).collect();
            assert!((least..=most).all(|tokens| prepared.contains(&rung(tokens).min(most))));
            assert!(prepared.len() < 50 && prepared.is_empty() == (least > most));
        }
    }
}
