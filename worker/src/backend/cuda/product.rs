//! Products: which kernel multiplies how many tokens, and what happens to the sums.
//!
//! Few tokens go to our own kernels (on Hopper to `stream_product.rs`, elsewhere to
//! `narrow_product.rs`), many to cuBLASLt (`library.rs`), odd shapes to the plain kernel.

use binfer_kernels::list::{self, Kernel, PRODUCT_TILE};
use binfer_kernels::params::{NormParams, ProductParams};
use binfer_kernels::stream::StreamStore;

use super::CudaBackend;
use super::stream_product::BegunNorm;
use super::weights::Placed;
use crate::backend::BackendError;

/// Columns that `rms_norm_wide` takes at most.
const WIDE_NORM_COLS_MAX: u32 = 8192;

/// What becomes of the sums of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Biased and stored.
    Store,
    /// Gate and up, biased, activated, stored.
    Glu,
    /// Biased and added to what is there, in single precision.
    Add,
    /// Stored in single precision.
    Logits,
    /// The same for all tokens: a part of a sum over ranks.
    Part,
}

impl Then {
    /// The same for kernels.
    pub(super) fn store(self) -> StreamStore {
        match self {
            Self::Store => StreamStore::Store,
            Self::Glu => StreamStore::Glu,
            Self::Add => StreamStore::AddF32,
            Self::Logits | Self::Part => StreamStore::StoreF32,
        }
    }
}

/// A product of activations with a weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    /// T `[tokens, inputs]`.
    pub(super) x: u64,
    pub(super) tokens: u32,
    pub(super) weight: Placed,
    pub(super) bias: Option<Placed>,
    pub(super) then: Then,
    /// `[tokens, out_stride]`.
    pub(super) out: u64,
    pub(super) out_stride: u32,
    pub(super) norms: Norms,
}

/// What a product does of the norms around it, where its kernel can; a kernel of norms does the
/// others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Norms {
    /// `x` lacks the factors of this norm; its epsilon.
    pub(super) before: Option<(BegunNorm, f32)>,
    /// Scale of a norm of `out`.
    pub(super) behind: Option<Placed>,
}

/// A size as kernels have it. Sizes were checked against what was allocated, which fits
/// (`Memory::new`).
pub(super) fn word(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

impl Product {
    /// Columns of the result.
    pub(super) fn outputs(&self) -> u32 {
        let rows = word(self.weight.rows);
        if self.then == Then::Glu { rows / 2 } else { rows }
    }

    pub(super) fn bias(&self) -> u64 {
        self.bias.map_or(0, |bias| bias.address)
    }
}

impl CudaBackend {
    /// Norms rows of `x` into the workspace: all tokens, or the outputs' where `gather` is set.
    pub(super) fn norm(
        &self,
        x: u64,
        scale: Placed,
        eps: f32,
        gather: bool,
    ) -> Result<(), BackendError> {
        let (at, shape) = (&self.memory.at, self.step.shape);
        let params = NormParams {
            gather: if gather { at.tables.outputs } else { 0 },
            x,
            scale: scale.address,
            out: at.normed,
            cols: word(scale.cols),
            eps,
        };
        let rows = if gather { shape.outputs } else { shape.tokens };
        let wide = params.cols.is_multiple_of(4) && params.cols <= WIDE_NORM_COLS_MAX;
        let aligned = [x, scale.address].iter().all(|address| address.is_multiple_of(16));
        let kernel = if wide && aligned { list::RMS_NORM_WIDE } else { list::RMS_NORM };
        self.device.launch(kernel, [rows, 1, 1], &params)
    }

    /// Enqueues a product of what a norm makes of `from`, so far as the product before has not begun
    /// that norm.
    pub(super) fn norm_and_multiply(
        &mut self,
        from: u64,
        (scale, eps): (Placed, f32),
        mut product: Product,
    ) -> Result<(), BackendError> {
        match self.begun_norm(from, scale, &product) {
            Some(begun) => product.norms.before = Some((begun, eps)),
            None => self.norm(from, scale, eps, false)?,
        }
        self.multiply(&product)
    }

    /// Whatever multiplies: no norm is begun any more, and a recording's products will come again.
    pub(super) fn begin_product(&mut self, product: &Product) {
        self.step.begun_norm = None;
        if self.recordings.is_recording() {
            self.expect_product(product);
        }
    }

    /// Enqueues a product.
    pub(super) fn multiply(&mut self, product: &Product) -> Result<(), BackendError> {
        self.begin_product(product);
        if self.multiply_by_stream(product)? || self.multiply_by_narrow(product)? {
            return Ok(());
        }
        if self.suits_library(product) {
            return self.multiply_by_library(product);
        }
        let weight = &product.weight;
        self.note_general(|| format!("products with [{}, {}]", weight.rows, weight.cols));
        let params = ProductParams {
            x: product.x,
            weight: product.weight.address,
            bias: product.bias(),
            out: product.out,
            tokens: product.tokens,
            inputs: word(product.weight.cols),
            outputs: product.outputs(),
            stride: word(product.weight.stride),
            out_stride: product.out_stride,
            reserved: 0,
        };
        let kernel: Kernel<ProductParams> = match product.then {
            Then::Store => list::PRODUCT,
            Then::Glu => list::PRODUCT_GLU,
            Then::Add => list::PRODUCT_RESIDUAL,
            Then::Logits | Then::Part => list::PRODUCT_LOGITS,
        };
        let tiles = |size: u32| size.div_ceil(PRODUCT_TILE);
        self.device.launch(kernel, [tiles(params.outputs), tiles(params.tokens), 1], &params)
    }
}
