//! Products of few tokens on images without wgmma: weights streamed once through mma.sync.
//!
//! `binfer_kernels::narrow` chooses the launch. Deliberately absent: other products, see `product.rs`.

use binfer_kernels::Target;
use binfer_kernels::fast_params::NarrowProductParams;
use binfer_kernels::list;
use binfer_kernels::narrow::{Chip, NarrowPlan, narrow_plan};
use binfer_kernels::stream::StreamShape;

use super::CudaBackend;
use super::device::{Blocks, Device};
use super::ffi::memory::DeviceBuffer;
use super::product::{Product, word};
use crate::backend::BackendError;

/// Elements of 16 bytes, of which rows are made.
const ROW_ELEMENTS: usize = 8;
/// Of steps that are launched kernel by kernel, products of more tokens are the library's.
pub(super) const LAUNCHED_TOKENS_MAX: u32 = 64;

/// Where blocks leave what they have of a tile that they share; nothing on images with wgmma.
pub(super) struct NarrowSpace {
    /// f32, as much as any plan asks for.
    pieces: DeviceBuffer,
    /// u32 a block, zero between kernels.
    arrivals: DeviceBuffer,
}

/// What plans have to know of a device; nothing where narrow products have no image.
fn chip(device: &Device) -> Option<Chip> {
    let (multiprocessors, shared_bytes_max) =
        (device.info.multiprocessors, device.info.shared_bytes_max);
    (device.target != Target::Sm90a).then_some(Chip { multiprocessors, shared_bytes_max })
}

impl NarrowSpace {
    /// Takes it.
    pub(super) fn new(device: &Device) -> Result<Self, BackendError> {
        let chip = chip(device);
        let pieces = DeviceBuffer::new(chip.map_or(0, |chip| chip.piece_bytes_max()))?;
        let arrivals = DeviceBuffer::new(chip.map_or(0, |chip| 4 * chip.blocks_max() as usize))?;
        arrivals.fill(0, &device.stream)?;
        Ok(Self { pieces, arrivals })
    }

    pub(super) fn bytes(&self) -> usize {
        self.pieces.bytes() + self.arrivals.bytes()
    }
}

impl CudaBackend {
    /// Enqueues a product of few tokens; false where no narrow product takes it.
    pub(super) fn multiply_by_narrow(&self, product: &Product) -> Result<bool, BackendError> {
        let Some(plan) = self.narrow_plan(product) else { return Ok(false) };
        let params = NarrowProductParams {
            weight: product.weight.address,
            x: product.x,
            bias: product.bias(),
            out: product.out,
            pieces: self.narrow.pieces.address(),
            arrivals: self.narrow.arrivals.address(),
            out_rows: product.outputs(),
            inputs: word(product.weight.cols),
            stride: word(product.weight.stride),
            tokens: product.tokens,
            out_stride: product.out_stride,
            store: product.then.store() as u32,
        };
        let blocks = Blocks { grid: [plan.blocks, 1, 1], ..Blocks::default() };
        self.device.launch_blocks(list::NARROW[plan.kernel], blocks, &params)?;
        Ok(true)
    }

    fn narrow_plan(&self, product: &Product) -> Option<NarrowPlan> {
        let chip = chip(&self.device)?;
        let few = self.step.shape.is_decode || product.tokens <= LAUNCHED_TOKENS_MAX;
        let aligned = [product.x, product.weight.address].iter().all(|at| at.is_multiple_of(16))
            && product.weight.stride.is_multiple_of(ROW_ELEMENTS);
        let shape = StreamShape {
            rows: word(product.weight.rows),
            inputs: word(product.weight.cols),
            tokens: product.tokens,
            store: product.then.store(),
        };
        (few && aligned).then(|| narrow_plan(&shape, &chip))?
    }
}
