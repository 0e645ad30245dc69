//! Element types of weights, as checkpoints store them.
//!
//! Quantised types stay packed from the file to the kernel, so a type is described by its block:
//! how many consecutive elements of a row share a scale, and how many bytes they take. The meaning
//! of the bits is in [`crate::quant`] and [`crate::dequant`].

use safetensors::Dtype;

/// An element type that binfer can serve. Other types are refused by name ([`UnsupportedDType`]).
#[allow(non_camel_case_types, reason = "as GGUF tools spell them")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// 32 elements: f16 scale, 32 nibbles, less 8.
    Q4_0,
    /// 32 elements: f16 scale, f16 minimum, 32 nibbles.
    Q4_1,
    /// 32 elements: f16 scale, 32 times five bits, less 16.
    Q5_0,
    /// 32 elements: f16 scale, f16 minimum, 32 times five bits.
    Q5_1,
    /// 32 elements: f16 scale, 32 signed bytes.
    Q8_0,
    /// 256 elements: f16 scale and minimum, each times six bits for every 32, 256 nibbles.
    Q4_K,
    /// 256 elements: f16 scale and minimum, each times six bits for every 32, 256 times five bits.
    Q5_K,
    /// 256 elements: f16 scale times a signed byte for every 16, 256 times six bits, less 32.
    Q6_K,
    /// The upper half of an F32.
    BF16,
    /// 32 elements: a power of two (E8M0), 32 times four bits (E2M1). OCP Microscaling Formats 1.0.
    MXFP4,
    /// 128 elements: f32 scale, 128 times eight bits (E4M3), as DeepSeek's FP8 checkpoints have
    /// them in two tensors.
    FP8_BLOCK,
    /// E4M3 without a scale: half of an [`Self::FP8_BLOCK`], which is no weight by itself.
    F8_E4M3,
    /// Bytes, of which other types are made.
    U8,
}

impl DType {
    /// Types of weights, in the order in which messages list them.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::MXFP4,
        Self::FP8_BLOCK,
    ];

    /// Types that say by themselves nothing of a number: halves of others.
    const RAW: [Self; 2] = [Self::F8_E4M3, Self::U8];

    /// The type of that [`Self::name`].
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().chain(Self::RAW).find(|dtype| dtype.name() == name)
    }

    /// The number of consecutive elements of a row that form a block. Plain types have 1.
    #[must_use]
    pub const fn block_elems(self) -> u32 {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::F8_E4M3 | Self::U8 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::MXFP4 => 32,
            Self::FP8_BLOCK => 128,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// The bytes of one block.
    #[must_use]
    pub const fn block_bytes(self) -> u32 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::MXFP4 => 17,
            Self::FP8_BLOCK => 132,
            Self::F8_E4M3 | Self::U8 => 1,
        }
    }

    /// Whether a tensor of this type says by itself what its elements are, so that it can be a
    /// weight.
    #[must_use]
    pub fn is_weight(self) -> bool {
        !Self::RAW.contains(&self)
    }

    /// The bytes of `elems` consecutive elements. `None` if they are not whole blocks, or if the
    /// number overflows.
    #[must_use]
    pub fn bytes_of(self, elems: u64) -> Option<u64> {
        let block = u64::from(self.block_elems());
        if !elems.is_multiple_of(block) {
            return None;
        }
        (elems / block).checked_mul(u64::from(self.block_bytes()))
    }

    /// The bytes of a row of `cols` columns. A last block that is not full counts as whole.
    #[must_use]
    pub fn row_bytes(self, cols: u32) -> u64 {
        u64::from(cols.div_ceil(self.block_elems())) * u64::from(self.block_bytes())
    }

    /// The name that GGUF tools print.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::MXFP4 => "MXFP4",
            Self::FP8_BLOCK => "FP8_BLOCK",
            Self::F8_E4M3 => "F8_E4M3",
            Self::U8 => "U8",
        }
    }

    /// `ggml_type` as stored in GGUF tensor infos; `None` for types that GGUF lacks.
    #[must_use]
    pub const fn gguf_id(self) -> Option<u32> {
        Some(match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
            Self::MXFP4 => 39,
            Self::FP8_BLOCK | Self::F8_E4M3 | Self::U8 => return None,
        })
    }

    /// The type that a safetensors header names.
    ///
    /// # Errors
    /// [`UnsupportedDType::Named`] for a type that is not served.
    pub(crate) fn from_safetensors(dtype: Dtype) -> Result<Self, UnsupportedDType> {
        let mut stored = Self::ALL.into_iter().chain(Self::RAW);
        let served = stored.find(|served| served.safetensors() == Some(dtype));
        served.ok_or_else(|| UnsupportedDType::Named {
            name: format!("{dtype:?}"),
            served: names(|dtype| dtype.safetensors().is_some()),
        })
    }

    /// The type as a safetensors header names it. `None` for packed types, which that format lacks.
    pub(crate) const fn safetensors(self) -> Option<Dtype> {
        match self {
            Self::F32 => Some(Dtype::F32),
            Self::F16 => Some(Dtype::F16),
            Self::BF16 => Some(Dtype::BF16),
            Self::F8_E4M3 => Some(Dtype::F8_E4M3),
            Self::U8 => Some(Dtype::U8),
            _ => None,
        }
    }

    /// The type that a GGUF tensor info names by `ggml_type`.
    ///
    /// # Errors
    /// [`UnsupportedDType`] for a type that is not served.
    pub fn from_gguf(id: u32) -> Result<Self, UnsupportedDType> {
        if let Some(dtype) = Self::ALL.into_iter().find(|dtype| dtype.gguf_id() == Some(id)) {
            return Ok(dtype);
        }
        let served = names(|dtype| dtype.gguf_id().is_some());
        Err(match GGUF_NAMES.iter().find(|(known, _)| *known == id) {
            Some((_, name)) => UnsupportedDType::Named { name: (*name).to_owned(), served },
            None => UnsupportedDType::Unknown { id, served },
        })
    }
}

/// Lists the names of the types that `wanted` picks.
fn names(wanted: impl Fn(DType) -> bool) -> String {
    let names = DType::ALL.into_iter().filter(|dtype| wanted(*dtype)).map(DType::name);
    names.collect::<Vec<_>>().join(", ")
}

/// Why weights of an element type cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedDType {
    /// The format has this type, but binfer does not serve it.
    #[error("{name} is not supported yet; supported: {served}")]
    Named {
        /// The name of the type.
        name: String,
        /// The names of the types that are served.
        served: String,
    },
    /// No type of the format has this number.
    #[error("element type {id} is unknown; supported: {served}")]
    Unknown {
        /// The number in the file.
        id: u32,
        /// The names of the types that are served.
        served: String,
    },
}

impl serde::Serialize for DType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Numbers of `ggml_type` (ggml.h) that are not served, with the names they are refused by.
const GGUF_NAMES: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];
