//! Gemms: chosen, then launched.
//!
//! | file | is |
//! |---|---|
//! | `desc.rs` | what is asked for: operands, and what a choice depends on |
//! | `config.rs` | the choice, pure: of one gemm, of two with a norm between them, of the head |
//! | `skinny.rs`, `lm_head.rs` | few tokens on Hopper; the head with statistics of logits |
//! | `fp8.rs` | weights in FP8 on Hopper |
//! | `stream_k.rs` | few tokens elsewhere |
//! | `library.rs`, `algorithms.rs` | many tokens: cuBLASLt, and what it was found to do best |
//! | `reference.rs` | any shape |
//! | `norm.rs` | norms that no gemm takes a share of |
//!
//! [`Gemms`] holds what gemms need between them and launches what was chosen.

pub(super) mod algorithms;
pub(super) mod config;
pub(super) mod desc;
pub(super) mod fp8;
mod library;
pub(super) mod lm_head;
mod norm;
mod reference;
mod skinny;
mod stream_k;

use config::{FusedNorm, GemmConfig, LmHeadConfig, gemm_config, gemm_pair_config, lm_head_config};
use desc::{GemmCall, NormCall};
use library::GemmLibrary;
use lm_head::LogitStatistics;
use norm::NormRows;
use skinny::{NormShares, SQUARES_BYTES};
use stream_k::StreamKPartials;

use super::device::CudaDevice;
use super::ffi::blas::Blas;
use super::formats::half::Half;
use super::launch::Launcher;
use super::ledger::DeviceLedger;
use crate::backend::{BackendError, MemoryLayout};

/// Where gemms keep what lies between them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GemmPlaces {
    /// T `[tokens or outputs, hidden]`: rows behind a norm.
    pub(super) normed: u64,
    /// f32 `[partials][tokens]`: sums of squares of a norm that two gemms share.
    squares: u64,
    /// T `[tokens, 2 intermediate]`: gate and up on their way to the activation.
    gate_up: u64,
}

impl GemmPlaces {
    /// Lays them out in places that `take` gives for so many bytes.
    pub(super) fn lay_out(layout: &MemoryLayout, take: &mut dyn FnMut(usize) -> u64) -> Self {
        let (tokens, outputs) = (layout.tokens_max, layout.outputs_max);
        Self {
            normed: take(Half::BYTES * tokens.max(outputs) * layout.normed_max),
            squares: take(SQUARES_BYTES),
            gate_up: take(Half::BYTES * tokens * 2 * layout.intermediate),
        }
    }
}

/// A gemm whose kernel was chosen together with that of the gemm before.
struct Second {
    norm: NormCall,
    gemm: GemmCall,
    config: GemmConfig,
    fused_norm: Option<FusedNorm>,
}

/// What gemms need between them.
pub(super) struct Gemms {
    pub(super) places: GemmPlaces,
    partials: StreamKPartials,
    library: GemmLibrary,
    /// The second gemm of a pair whose first one was the last to be launched.
    second: Option<Second>,
}

impl Gemms {
    pub(super) fn new(device: &CudaDevice, blas: Blas) -> Result<Self, BackendError> {
        Ok(Self {
            places: GemmPlaces::default(),
            partials: StreamKPartials::new(device)?,
            library: GemmLibrary::new(blas),
            second: None,
        })
    }

    /// Bytes of the device that it took by itself.
    pub(super) fn bytes(&self) -> usize {
        self.partials.bytes()
    }

    /// The library, for measurements.
    pub(super) fn blas(&mut self) -> &mut Blas {
        &mut self.library.blas
    }

    /// A step begins: nothing of the one before is left to be ended.
    pub(super) fn begin_step(&mut self) {
        self.second = None;
    }

    /// Whether the gemm that was launched last has begun a norm.
    #[cfg(test)]
    pub(super) fn has_begun_norm(&self) -> bool {
        self.second.as_ref().is_some_and(|second| second.fused_norm.is_some())
    }

    /// Enqueues a norm of all tokens, into the place of rows behind a norm.
    pub(super) fn norm(&mut self, on: &Launcher<'_>, norm: &NormCall) -> Result<(), BackendError> {
        self.second = None;
        norm::launch(on, norm, NormRows::Tokens, self.places.normed)
    }

    /// Enqueues a norm of all tokens and the gemm behind it, whose `x` is the norm's result.
    pub(super) fn norm_then_gemm(
        &mut self,
        on: &Launcher<'_>,
        norm: &NormCall,
        gemm: &GemmCall,
    ) -> Result<GemmConfig, BackendError> {
        let chosen =
            self.second.take().filter(|second| (second.norm, second.gemm) == (*norm, *gemm));
        let (config, fused_norm) = match chosen {
            Some(second) => (second.config, second.fused_norm),
            None => {
                (gemm_config(&gemm.desc(on.device.half), &on.device.chip(), on.shape.mode), None)
            }
        };
        if fused_norm.is_none() {
            norm::launch(on, norm, NormRows::Tokens, self.places.normed)?;
        }
        let before = fused_norm.map(|fused| (fused.partials, norm.eps));
        self.launch(on, gemm, &config, self.norm_shares(before, None))?;
        Ok(config)
    }

    /// Enqueues a gemm. Where `next` is a norm of its result and the gemm behind that norm, the
    /// kernels of both are chosen now, and the norm may be shared out among them.
    pub(super) fn gemm(
        &mut self,
        on: &Launcher<'_>,
        gemm: &GemmCall,
        next: Option<(NormCall, GemmCall)>,
    ) -> Result<GemmConfig, BackendError> {
        let (chip, mode) = (on.device.chip(), on.shape.mode);
        let Some((norm, next)) = next.filter(|(norm, _)| norm.x == gemm.out) else {
            let config = gemm_config(&gemm.desc(on.device.half), &chip, mode);
            self.second = None;
            self.launch(on, gemm, &config, self.norm_shares(None, None))?;
            return Ok(config);
        };
        let pair =
            gemm_pair_config(&gemm.desc(on.device.half), &next.desc(on.device.half), &chip, mode);
        let behind = pair.fused_norm.map(|_| norm.scale);
        self.launch(on, gemm, &pair.first, self.norm_shares(None, behind))?;
        let (config, fused_norm) = (pair.second, pair.fused_norm);
        self.second = Some(Second { norm, gemm: next, config, fused_norm });
        Ok(pair.first)
    }

    /// Enqueues the norm of the step's outputs and the head's gemm behind it.
    pub(super) fn lm_head(
        &mut self,
        on: &Launcher<'_>,
        (norm, gemm): (&NormCall, &GemmCall),
        statistics: &LogitStatistics,
        is_sharded: bool,
    ) -> Result<LmHeadConfig, BackendError> {
        self.second = None;
        norm::launch(on, norm, NormRows::Outputs, self.places.normed)?;
        let config = lm_head_config(
            &gemm.desc(on.device.half),
            &on.device.chip(),
            on.shape.mode,
            is_sharded,
        );
        match &config {
            LmHeadConfig::Statistics(skinny) => {
                self.expect(on, gemm);
                lm_head::launch(on, gemm, skinny, statistics)?;
            }
            LmHeadConfig::Logits(other) => {
                self.launch(on, gemm, other, self.norm_shares(None, None))?;
            }
        }
        Ok(config)
    }

    /// Chooses the library's algorithms for all gemms that captured steps had; once.
    pub(super) fn prepare_library(
        &mut self,
        device: &CudaDevice,
        ledger: &mut DeviceLedger,
        scratch: u64,
    ) -> Result<(), BackendError> {
        self.library.prepare(device, ledger, scratch)
    }

    fn norm_shares(
        &self,
        before: Option<(u32, f32)>,
        behind: Option<super::weights::DeviceVector>,
    ) -> NormShares {
        let GemmPlaces { normed, squares, .. } = self.places;
        NormShares { before, behind, normed, squares }
    }

    /// Remembers a gemm that is captured: steps of many tokens will have it, too.
    fn expect(&mut self, on: &Launcher<'_>, gemm: &GemmCall) {
        if on.is_capturing {
            self.library.expect(gemm, on.device.half);
        }
    }

    fn launch(
        &mut self,
        on: &Launcher<'_>,
        gemm: &GemmCall,
        config: &GemmConfig,
        norms: NormShares,
    ) -> Result<(), BackendError> {
        self.expect(on, gemm);
        match config {
            GemmConfig::Skinny(config) => skinny::launch(on, gemm, config, &norms),
            GemmConfig::Fp8(config) => fp8::launch(on, gemm, config),
            GemmConfig::StreamK(config) => self.partials.launch(on, gemm, config),
            GemmConfig::Library => self.library.launch(on, gemm, self.places.gate_up),
            GemmConfig::Reference => reference::launch(on, gemm),
        }
    }
}
