//! What is asked of cuBLASLt, as plain data.

use crate::backend::cuda::formats::half::Half;

/// What tells one gemm from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::backend::cuda) struct MatmulShape {
    /// Tokens: at most so many, and not many fewer.
    pub(in crate::backend::cuda) m: u32,
    /// Output features: rows of the weight.
    pub(in crate::backend::cuda) n: u32,
    /// Input features.
    pub(in crate::backend::cuda) k: u32,
    /// Elements from a row of the weight to the next.
    pub(in crate::backend::cuda) weight_stride: u32,
    /// Elements from a row of out to the next.
    pub(in crate::backend::cuda) out_stride: u32,
    /// The sums are added to `out`, which is f32.
    pub(in crate::backend::cuda) accumulates: bool,
    /// `out` is f32.
    pub(in crate::backend::cuda) out_f32: bool,
}

/// Addresses of a gemm's matrices.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct MatmulOperands {
    /// Tokens.
    pub(in crate::backend::cuda) m: u32,
    pub(in crate::backend::cuda) x: u64,
    pub(in crate::backend::cuda) weight: u64,
    pub(in crate::backend::cuda) out: u64,
}

/// What an algorithm was measured for: it holds for one version of the library, one card, one
/// shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct AlgorithmKey<'a> {
    /// The library's version, as it says itself.
    pub(in crate::backend::cuda) version: usize,
    /// The card's name.
    pub(in crate::backend::cuda) card: &'a str,
    pub(in crate::backend::cuda) half: Half,
    pub(in crate::backend::cuda) shape: MatmulShape,
}

/// Looks up an algorithm that was measured to be faster than the library's own choice.
pub(in crate::backend::cuda) type Measured = fn(&AlgorithmKey<'_>) -> Option<[u64; 8]>;
