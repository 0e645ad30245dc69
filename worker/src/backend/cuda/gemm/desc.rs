//! A gemm as it is asked for: `out = epilogue(x * weight^T + bias)`.

use binfer_kernels::gemm::{Epilogue, GemmShape};

use crate::backend::cuda::formats::WeightFormat;
use crate::backend::cuda::formats::half::Half;
use crate::backend::cuda::launch::to_u32;
use crate::backend::cuda::weights::{DeviceMatrix, DeviceVector};

/// A gemm and where its operands lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::backend::cuda) struct GemmCall {
    /// T `[m, k]`.
    pub(in crate::backend::cuda) x: u64,
    /// Tokens.
    pub(in crate::backend::cuda) m: u32,
    /// Most tokens that a step has for this gemm.
    pub(in crate::backend::cuda) m_max: u32,
    /// `[n, k]`.
    pub(in crate::backend::cuda) weight: DeviceMatrix,
    /// `[n]`.
    pub(in crate::backend::cuda) bias: Option<DeviceVector>,
    pub(in crate::backend::cuda) epilogue: Epilogue,
    /// `[m, out_stride]`.
    pub(in crate::backend::cuda) out: u64,
    pub(in crate::backend::cuda) out_stride: u32,
}

/// RMSNorm in front of a gemm: `scale * x / sqrt(mean(x^2) + eps)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::backend::cuda) struct NormCall {
    /// f32 `[tokens, hidden]`.
    pub(in crate::backend::cuda) x: u64,
    /// `[hidden]`.
    pub(in crate::backend::cuda) scale: DeviceVector,
    pub(in crate::backend::cuda) eps: f32,
}

/// What the choice of a gemm's kernel depends on: sizes, format and alignment. Alignments are
/// powers of two [bytes], 256 at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct GemmDesc {
    pub(in crate::backend::cuda) shape: GemmShape,
    /// What it is computed in.
    pub(in crate::backend::cuda) half: Half,
    pub(in crate::backend::cuda) format: WeightFormat,
    /// Elements from a row of the weight to the next.
    pub(in crate::backend::cuda) weight_stride: u32,
    /// Elements from a row of `out` to the next.
    pub(in crate::backend::cuda) out_stride: u32,
    pub(in crate::backend::cuda) x_alignment: u32,
    pub(in crate::backend::cuda) weight_alignment: u32,
    pub(in crate::backend::cuda) out_alignment: u32,
}

/// The largest power of two, up to 256, that divides an address.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

impl GemmCall {
    /// What the choice of its kernel depends on.
    pub(in crate::backend::cuda) fn desc(&self, half: Half) -> GemmDesc {
        let (n, k) = (to_u32(self.weight.rows), to_u32(self.weight.cols));
        GemmDesc {
            shape: GemmShape { m: self.m, n, k, epilogue: self.epilogue },
            half,
            format: self.weight.format,
            weight_stride: to_u32(self.weight.stride),
            out_stride: self.out_stride,
            x_alignment: alignment(self.x),
            weight_alignment: alignment(self.weight.address),
            out_alignment: alignment(self.out),
        }
    }

    /// Columns of `out`.
    pub(in crate::backend::cuda) fn out_features(&self) -> u32 {
        let n = to_u32(self.weight.rows);
        if self.epilogue == Epilogue::Glu { n / 2 } else { n }
    }

    /// Address of the bias; 0 where there is none.
    pub(in crate::backend::cuda) fn bias_address(&self) -> u64 {
        self.bias.map_or(0, |bias| bias.address)
    }
}
