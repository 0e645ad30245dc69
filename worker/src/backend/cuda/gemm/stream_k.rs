//! Launches of `stream_k_gemm` (`cuda/stream_k_gemm.cu`), and where its blocks leave partial sums.

use binfer_kernels::Target;
use binfer_kernels::gemm_params::StreamKGemmParams;
use binfer_kernels::list;
use binfer_kernels::stream_k_gemm::StreamKConfig;

use super::desc::GemmCall;
use crate::backend::BackendError;
use crate::backend::cuda::device::{CudaDevice, LaunchBlocks};
use crate::backend::cuda::ffi::memory::DeviceBuffer;
use crate::backend::cuda::launch::{Launcher, to_u32};

/// Where blocks leave what they have of a tile that they share; nothing on images with wgmma.
pub(super) struct StreamKPartials {
    /// f32, as much as any config asks for.
    sums: DeviceBuffer,
    /// u32 a block, zero between kernels.
    arrivals: DeviceBuffer,
}

impl StreamKPartials {
    /// Takes their memory.
    pub(super) fn new(device: &CudaDevice) -> Result<Self, BackendError> {
        let chip = (device.target != Target::Sm90a).then(|| device.chip());
        let sums = DeviceBuffer::new(chip.map_or(0, |chip| chip.partial_bytes_max()))?;
        let arrivals = DeviceBuffer::new(chip.map_or(0, |chip| 4 * chip.blocks_max() as usize))?;
        arrivals.fill(0, &device.stream)?;
        Ok(Self { sums, arrivals })
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        self.sums.bytes() + self.arrivals.bytes()
    }

    /// Enqueues a gemm.
    pub(super) fn launch(
        &self,
        on: &Launcher<'_>,
        gemm: &GemmCall,
        config: &StreamKConfig,
    ) -> Result<(), BackendError> {
        let params = StreamKGemmParams {
            weight: gemm.weight.address,
            x: gemm.x,
            bias: gemm.bias_address(),
            out: gemm.out,
            partials: self.sums.address(),
            arrivals: self.arrivals.address(),
            out_features: gemm.out_features(),
            in_features: to_u32(gemm.weight.cols),
            stride: to_u32(gemm.weight.stride),
            tokens: gemm.m,
            out_stride: gemm.out_stride,
            epilogue: gemm.epilogue as u32,
        };
        let blocks = LaunchBlocks { grid: [config.blocks, 1, 1], ..LaunchBlocks::default() };
        on.device.launch_blocks(list::STREAM_K_GEMM[config.kernel], blocks, &params)
    }
}
