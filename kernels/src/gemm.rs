//! What the kernels of gemms share: the shape of one, and what becomes of its sums.

/// What becomes of a gemm's sums: `enum Epilogue` of `cuda/gemm_params.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Epilogue {
    /// `out = T(sum + bias)`.
    Store = 0,
    /// `out = T(silu(gate + bias) * (up + bias))`: gate rows of the weight, then as many up rows.
    Glu = 1,
    /// `out += sum + bias`, in single precision.
    AddF32 = 2,
    /// `out = sum + bias`, in single precision.
    StoreF32 = 3,
    /// Logits where something reads them, and statistics of all of them (`cuda/lm_head_gemm.cu`).
    LmHead = 4,
}

/// The gemm `out[m, n] = x[m, k] * weight[n, k]^T`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmShape {
    /// Tokens, padding included.
    pub m: u32,
    /// Output features: rows of the weight, gate and up both counted.
    pub n: u32,
    /// Input features: columns of the weight.
    pub k: u32,
    /// Where the sums go.
    pub epilogue: Epilogue,
}
