//! Products of few tokens on Hopper: weights streamed once, at the speed of memory.
//!
//! `binfer_kernels::stream` chooses the launch. Tensor maps are made for each launch: that takes a
//! microsecond, and recordings keep them. Deliberately absent: other products, see `product.rs`.

use binfer_kernels::Target;
use binfer_kernels::fast_params::{StreamProductParams, TensorMap};
use binfer_kernels::list;
use binfer_kernels::stream::{STREAM_KERNELS, StreamPlan, StreamShape, StreamStore, stream_plan};

use super::CudaBackend;
use super::device::Blocks;
use super::ffi::tensor_map::{Dimension, describe};
use super::product::{Product, Then, word};
use crate::backend::BackendError;

/// Elements of a row of a box: 128 bytes.
const BOX_ELEMENTS: u32 = 64;
/// Rows that gate and up take turns by.
const GLU_ROWS: u32 = 8;
/// Chunks of weights left to ask for when the next kernel may start.
const START_NEXT_AHEAD: u32 = 2;

impl CudaBackend {
    /// Enqueues a product of few tokens; false where no stream product takes it.
    pub(super) fn multiply_by_stream(&self, product: &Product) -> Result<bool, BackendError> {
        let Some(plan) = self.stream_plan(product) else { return Ok(false) };
        let outputs = product.outputs();
        let params = StreamProductParams {
            weight: self.weight_map(product, &plan)?,
            x: self.x_map(product, &plan)?,
            out: product.out,
            bias: product.bias(),
            out_rows: outputs,
            inputs: word(product.weight.cols),
            tokens: product.tokens,
            out_stride: product.out_stride,
            store: store(product.then) as u32,
            tile_rows: plan.tile_rows,
            stages: plan.stages,
            start_next_ahead: START_NEXT_AHEAD,
        };
        let blocks = Blocks {
            grid: [plan.blocks, 1, 1],
            cluster: plan.cluster,
            shared_bytes: Some(plan.shared_bytes),
            ..Blocks::default()
        };
        self.device.launch_blocks(list::STREAM[plan.kernel], blocks, &params)?;
        Ok(true)
    }

    fn stream_plan(&self, product: &Product) -> Option<StreamPlan> {
        let boxes = [product.x, product.weight.address];
        let aligned = boxes.iter().all(|address| address.is_multiple_of(16))
            && product.out.is_multiple_of(4)
            && product.out_stride.is_multiple_of(2);
        if self.device.target != Target::Sm90a || !aligned {
            return None;
        }
        let shape = StreamShape {
            rows: word(product.weight.rows),
            inputs: word(product.weight.cols),
            tokens: product.tokens,
            store: store(product.then),
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

fn store(then: Then) -> StreamStore {
    match then {
        Then::Store => StreamStore::Store,
        Then::Glu => StreamStore::Glu,
        Then::Add => StreamStore::AddF32,
        Then::Logits | Then::Part => StreamStore::StoreF32,
    }
}
