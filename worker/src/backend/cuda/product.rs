//! Products: which kernel multiplies how many tokens, and what happens to the sums.
//!
//! Few tokens go to our own kernels (on Hopper to `stream_product.rs`), many to cuBLASLt, whose sums
//! another kernel finishes.

use binfer_kernels::list::{self, Kernel, PRODUCT_TILE};
use binfer_kernels::params::{EpilogueParams, NormParams, ProductParams};

use super::CudaBackend;
use super::ffi::blas::{Operands, Shape};
use super::weights::Placed;
use crate::backend::BackendError;

/// From so many tokens on, the library is asked.
const LIBRARY_TOKENS_MIN: u32 = 32;
/// To multiples of which tokens are rounded up for it: asking for an algorithm takes it a while.
const LIBRARY_TOKENS_UNIT: u32 = 64;
/// What the library wants every row to be a multiple of, in bytes of a half.
const LIBRARY_ELEMENTS: usize = 8;

/// Columns that `rms_norm_wide` takes at most.
const WIDE_NORM_COLS_MAX: u32 = 8192;
/// Elements of a thread of `glu_wide`.
const GLU_ELEMENTS: u32 = 8;

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
}

/// Sizes were checked against what was allocated.
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

    fn suits_library(&self) -> bool {
        let aligned = |size: usize| size.is_multiple_of(LIBRARY_ELEMENTS);
        self.tokens >= LIBRARY_TOKENS_MIN
            && aligned(self.weight.cols)
            && aligned(self.weight.rows)
            && aligned(self.out_stride as usize)
            && [self.x, self.out].iter().all(|address| address.is_multiple_of(256))
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
    ) -> Result<u64, BackendError> {
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
        self.device.launch(kernel, [rows, 1, 1], &params)?;
        Ok(at.normed)
    }

    /// Enqueues a product.
    pub(super) fn multiply(&mut self, product: &Product) -> Result<(), BackendError> {
        if self.multiply_by_stream(product)? {
            return Ok(());
        }
        if product.suits_library() {
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

    /// Tokens that the library is asked for: more than there are, so that it knows few shapes. What
    /// it makes of the others lies in the same tensors, where nothing reads it.
    fn library_tokens(&self, product: &Product) -> u32 {
        let plan = &self.step.plan;
        let is_head = product.then == Then::Logits;
        let room = word(if is_head { plan.outputs_max } else { plan.tokens_max });
        product.tokens.next_multiple_of(LIBRARY_TOKENS_UNIT).min(room).max(product.tokens)
    }

    fn multiply_by_library(&mut self, product: &Product) -> Result<(), BackendError> {
        let rows = word(product.weight.rows);
        let is_glu = product.then == Then::Glu;
        let (out, out_stride) =
            if is_glu { (self.memory.at.sums, rows) } else { (product.out, product.out_stride) };
        let shape = Shape {
            tokens: self.library_tokens(product),
            outputs: rows,
            inputs: word(product.weight.cols),
            stride: word(product.weight.stride),
            out_stride,
            adds: product.then == Then::Add,
            single: matches!(product.then, Then::Add | Then::Logits | Then::Part),
        };
        let operands = Operands { x: product.x, weight: product.weight.address, out };
        self.blas.product(shape, operands, &self.device.stream)?;
        self.device.note_launch("cublasLt");
        let params = EpilogueParams {
            sums: out,
            bias: product.bias(),
            out: product.out,
            tokens: product.tokens,
            outputs: product.outputs(),
        };
        let kernel = match product.then {
            Then::Glu if params.outputs.is_multiple_of(GLU_ELEMENTS) => {
                let threads = list::ALL[list::GLU_WIDE.index].threads * GLU_ELEMENTS;
                let grid = [params.outputs.div_ceil(threads), params.tokens, 1];
                return self.device.launch(list::GLU_WIDE, grid, &params);
            }
            Then::Glu => list::GLU,
            Then::Store if product.bias.is_some() => list::BIAS,
            Then::Add if product.bias.is_some() => list::BIAS_RESIDUAL,
            _ => return Ok(()),
        };
        let threads = list::ALL[kernel.index].threads;
        let grid = [params.tokens, params.outputs.div_ceil(threads), 1];
        self.device.launch(kernel, grid, &params)
    }
}
