//! The two types of 16 bits in which a backend computes.

use half::{bf16, f16};

/// Type of activations between operations, of the cache, and of dense weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Half {
    /// Bytes of an element.
    pub const BYTES: usize = 2;

    /// An element as it lies on the device.
    pub(in crate::backend::cuda) fn to_bytes(self, value: f32) -> [u8; 2] {
        match self {
            Self::Bf16 => bf16::from_f32(value).to_le_bytes(),
            Self::F16 => f16::from_f32(value).to_le_bytes(),
        }
    }

    /// The value of an element.
    pub(in crate::backend::cuda) fn to_f32(self, bytes: [u8; 2]) -> f32 {
        match self {
            Self::Bf16 => bf16::from_le_bytes(bytes).to_f32(),
            Self::F16 => f16::from_le_bytes(bytes).to_f32(),
        }
    }
}
