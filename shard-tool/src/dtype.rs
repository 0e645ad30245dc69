//! Element types of weights, as they lie in checkpoints.
//!
//! Quantised types stay packed from the file to the kernel, so a type is described by its block:
//! how many consecutive elements of a row share a scale, and in how many bytes. What the bits mean
//! is in [`crate::quant`] and [`crate::dequant`].

/// A type that binfer can serve. Others are refused by name, see [`DType::from_gguf`].
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
}

impl DType {
    /// All of them, in the order in which messages list them.
    pub const ALL: [Self; 11] = [
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
    ];

    /// Consecutive elements of a row that are stored together; 1 for plain types.
    #[must_use]
    pub const fn block_elems(self) -> u32 {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of one block.
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
        }
    }

    /// Bytes of `elems` consecutive elements; `None` when they are not whole blocks or overflow.
    #[must_use]
    pub fn bytes_of(self, elems: u64) -> Option<u64> {
        let block = u64::from(self.block_elems());
        if !elems.is_multiple_of(block) {
            return None;
        }
        (elems / block).checked_mul(u64::from(self.block_bytes()))
    }

    /// Bytes of a row of so many columns; a last block that is not full counts as whole.
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
        }
    }

    /// `ggml_type` as stored in GGUF tensor infos.
    #[must_use]
    pub const fn gguf_id(self) -> u32 {
        match self {
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
        }
    }

    /// The type of that name in a safetensors header.
    ///
    /// # Errors
    /// A sentence that names the type and those that are supported.
    pub fn from_safetensors(name: &str) -> Result<Self, String> {
        match name {
            "F32" => Ok(Self::F32),
            "F16" => Ok(Self::F16),
            "BF16" => Ok(Self::BF16),
            _ => Err(format!("{name} is not supported yet; supported: F32, F16, BF16")),
        }
    }

    /// Its name in a safetensors header; `None` for packed types, which that format lacks.
    #[must_use]
    pub const fn safetensors_name(self) -> Option<&'static str> {
        if self.block_elems() == 1 { Some(self.name()) } else { None }
    }

    /// The type of a GGUF id.
    ///
    /// # Errors
    /// A sentence that names the type and those that are supported.
    pub fn from_gguf(id: u32) -> Result<Self, String> {
        if let Some(dtype) = Self::ALL.into_iter().find(|dtype| dtype.gguf_id() == id) {
            return Ok(dtype);
        }
        let supported = Self::ALL.map(Self::name).join(", ");
        match GGUF_NAMES.iter().find(|(known, _)| *known == id) {
            Some((_, name)) => Err(format!("{name} is not supported yet; supported: {supported}")),
            None => Err(format!("element type {id} is unknown; supported: {supported}")),
        }
    }
}

impl serde::Serialize for DType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// `ggml_type` ids that exist but are not served, so that they can be refused by name (ggml.h).
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
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];
