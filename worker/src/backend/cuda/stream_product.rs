//! Products of few tokens on Hopper: weights streamed once, at the speed of memory.
//!
//! `binfer_kernels::stream` chooses the launch. Tensor maps are made for each launch: that takes a
//! microsecond, and recordings keep them. A norm between two such products of few tokens is shared out
//! among them (`cuda/stream_finish.cuh`): the first leaves a [`BegunNorm`]. Deliberately absent: other
//! products, see `product.rs`; the head's, where statistics go with it (`head_product.rs`).

use binfer_kernels::Target;
use binfer_kernels::fast_params::{StreamProductParams, TensorMap};
use binfer_kernels::list;
use binfer_kernels::stream::{
    STREAM_KERNELS, STREAM_NORM_TOKENS_MAX, STREAM_PARTS_MAX, StreamPlan, StreamShape, StreamStore,
    stream_plan,
};

use super::device::Blocks;
use super::ffi::tensor_map::{Dimension, describe};
use super::product::{Product, Then, word};
use super::weights::Placed;
use super::{CudaBackend, Half};
use crate::backend::BackendError;

/// Elements of a row of a box: 128 bytes.
const BOX_ELEMENTS: u32 = 64;
/// Rows that gate and up take turns by.
const GLU_ROWS: u32 = 8;
/// Chunks of weights left to ask for when the next kernel may start.
const START_NEXT_AHEAD: u32 = 2;

/// Bytes of a norm's squares on their way from one product to the next.
pub(super) const SQUARES_BYTES: usize = 4 * (STREAM_PARTS_MAX * STREAM_NORM_TOKENS_MAX) as usize;

/// A norm of which a product has done its part: scaled rows and sums of squares are in the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BegunNorm {
    /// Address of what is normed.
    x: u64,
    /// Address of the norm's scale.
    scale: u64,
    /// The product's kernel: sums lie as the next product's has to expect them.
    kernel: usize,
    /// Parts of a token's squares.
    parts: u32,
}

impl CudaBackend {
    /// The norm of `x` that the product before has begun, if `product` can end it.
    pub(super) fn begun_norm(
        &mut self,
        x: u64,
        scale: Placed,
        product: &Product,
    ) -> Option<BegunNorm> {
        let begun = self.step.begun_norm.take()?;
        let plan = self.stream_plan(product, product.then.store())?;
        let is_same = begun.x == x && begun.scale == scale.address;
        (is_same && begun.kernel == plan.kernel).then_some(begun)
    }

    /// The norm behind `product`, if its kernel can begin it. Not in half precision: rows are not
    /// yet divided by their length, and may be too large for it.
    fn norm_to_begin(&self, product: &Product, plan: &StreamPlan) -> Option<BegunNorm> {
        let scale = product.norms.behind?;
        let fits = STREAM_KERNELS[plan.kernel].folds_norms()
            && product.then == Then::Add
            && self.settings.half == Half::Bf16
            && (plan.rounds, product.out_stride) == (1, product.outputs())
            && product.out_stride.is_multiple_of(2)
            && plan.blocks <= STREAM_PARTS_MAX;
        let (x, scale, kernel, parts) = (product.out, scale.address, plan.kernel, plan.blocks);
        fits.then_some(BegunNorm { x, scale, kernel, parts })
    }

    /// Enqueues a product of few tokens; false where no stream product takes it.
    pub(super) fn multiply_by_stream(&mut self, product: &Product) -> Result<bool, BackendError> {
        let store = product.then.store();
        let Some(plan) = self.stream_plan(product, store) else { return Ok(false) };
        let (normed, squares) = (self.memory.at.normed, self.memory.at.squares);
        let begins = self.norm_to_begin(product, &plan);
        let params = StreamProductParams {
            squares: product.norms.before.map_or(0, |_| squares),
            next_scale: begins.map_or(0, |norm| norm.scale),
            next_x: normed,
            next_squares: squares,
            parts: product.norms.before.map_or(0, |(norm, _)| norm.parts),
            eps: product.norms.before.map_or(0.0, |(_, eps)| eps),
            ..self.stream_params(product, store, &plan)?
        };
        self.device.launch_blocks(list::STREAM[plan.kernel], blocks(&plan), &params)?;
        self.step.begun_norm = begins;
        Ok(true)
    }

    /// What a kernel has to know of a product whose norms are others' business.
    pub(super) fn stream_params(
        &self,
        product: &Product,
        store: StreamStore,
        plan: &StreamPlan,
    ) -> Result<StreamProductParams, BackendError> {
        Ok(StreamProductParams {
            weight: self.weight_map(product, plan)?,
            x: self.x_map(product, plan)?,
            out: product.out,
            bias: product.bias(),
            out_rows: product.outputs(),
            inputs: word(product.weight.cols),
            tokens: product.tokens,
            out_stride: product.out_stride,
            store: store as u32,
            tile_rows: plan.tile_rows,
            stages: plan.stages,
            start_next_ahead: START_NEXT_AHEAD,
            ..StreamProductParams::default()
        })
    }

    /// How a stream product with such sums is launched; nothing where none takes it.
    pub(super) fn stream_plan(&self, product: &Product, store: StreamStore) -> Option<StreamPlan> {
        let boxes = [product.x, product.weight.address];
        let aligned = boxes.iter().all(|address| address.is_multiple_of(16))
            && product.out.is_multiple_of(4)
            && (product.out_stride.is_multiple_of(2) || store == StreamStore::Head);
        if self.device.target != Target::Sm90a || !aligned {
            return None;
        }
        let shape = StreamShape {
            rows: word(product.weight.rows),
            inputs: word(product.weight.cols),
            tokens: product.tokens,
            store,
        };
        stream_plan(&shape, self.device.info.multiprocessors)
    }

    /// Rows of a weight in tiles; gate and up, if they are that, by turns of eight rows.
    fn weight_map(&self, product: &Product, plan: &StreamPlan) -> Result<TensorMap, BackendError> {
        let weight = &product.weight;
        let (rows, stride) = (weight.rows, weight.stride);
        let columns = Dimension { size: weight.cols, stride: 1, in_box: BOX_ELEMENTS };
        if product.then != Then::Glu {
            let rows = Dimension { size: rows, stride, in_box: plan.tile_rows };
            return describe(self.settings.half, weight.address, &[columns, rows]);
        }
        let turn = GLU_ROWS as usize;
        let dimensions = [
            columns,
            Dimension { size: turn, stride, in_box: GLU_ROWS },
            Dimension { size: 2, stride: rows / 2 * stride, in_box: 2 },
            Dimension {
                size: rows / 2 / turn,
                stride: turn * stride,
                in_box: plan.tile_rows / (2 * GLU_ROWS),
            },
        ];
        describe(self.settings.half, weight.address, &dimensions)
    }

    fn x_map(&self, product: &Product, plan: &StreamPlan) -> Result<TensorMap, BackendError> {
        let (inputs, tokens) = (product.weight.cols, product.tokens as usize);
        let columns = Dimension { size: inputs, stride: 1, in_box: BOX_ELEMENTS };
        let in_box = STREAM_KERNELS[plan.kernel].tokens;
        let rows = Dimension { size: tokens, stride: inputs, in_box };
        describe(self.settings.half, product.x, &[columns, rows])
    }
}

/// The blocks of a launch.
pub(super) fn blocks(plan: &StreamPlan) -> Blocks {
    Blocks {
        grid: [plan.blocks, 1, 1],
        cluster: plan.cluster,
        shared_bytes: Some(plan.shared_bytes),
        ..Blocks::default()
    }
}
