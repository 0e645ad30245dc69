//! Twins of the structs in `cuda/params.h`, which says what the fields mean.
//!
//! Both sides assert the sizes, and a test compares the fields. Pointers are device addresses.
//! Plain data: no method launches anything.
#![allow(missing_docs, reason = "cuda/params.h says what the fields mean")]

/// An address in device memory, or of mapped host memory as the device sees it.
pub type Address = u64;

/// Asserts the size that the C++ side asserts, too.
macro_rules! sized {
    ($type:ty, $bytes:literal) => {
        const _: () = assert!(size_of::<$type>() == $bytes, "cuda/params.h");
    };
}

/// Pairs of elements that rotate, at most: the table of frequencies travels with the launch.
pub const ROPE_PAIRS_MAX: usize = 128;

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StepState {
    pub tokens: u32,
    pub rows: u32,
    pub decode_rows: u32,
    pub outputs: u32,
    pub ring_slot: u32,
    pub next_slot: u32,
    pub reserved: [u32; 2],
}
sized!(StepState, 32);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StepRow {
    pub first: u32,
    pub count: u32,
    pub start: u32,
    pub slot: u32,
}
sized!(StepRow, 16);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StepInput {
    pub token: i32,
    pub position: u32,
    pub row: u32,
    pub reserved: u32,
}
sized!(StepInput, 16);

/// Bits of [`StepOutput::adjusted`].
pub const PENALISED: u32 = 1;
pub const MASKED: u32 = 2;

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StepOutput {
    pub token: u32,
    pub slot: u32,
    pub position: u32,
    pub choice: u32,
    pub seed: u64,
    pub temperature: f32,
    pub top_p: f32,
    pub top_k: u32,
    pub min_p_depth: f32,
    pub repetition_penalty: f32,
    pub frequency_penalty: f32,
    pub presence_penalty: f32,
    pub biases: u32,
    pub adjusted: u32,
    pub logprobs: u32,
}
sized!(StepOutput, 64);
/// Vectors of 16 bytes of an output; of inputs and rows each is one.
pub const OUTPUT_VECTORS: u32 = 4;
const _: () = assert!(size_of::<StepOutput>() == 16 * OUTPUT_VECTORS as usize);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct TableUpdate {
    pub index: u32,
    pub block: u32,
}
sized!(TableUpdate, 8);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StepHeader {
    pub tokens: u32,
    pub rows: u32,
    pub decode_rows: u32,
    pub outputs: u32,
    pub updates: u32,
    pub reserved: [u32; 3],
}
sized!(StepHeader, 32);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StepResult {
    pub token: u32,
    pub finite: u32,
    pub digest: u64,
}
sized!(StepResult, 16);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StepTables {
    pub state: Address,
    pub token_ids: Address,
    pub positions: Address,
    pub row_of: Address,
    pub rows: Address,
    pub outputs: Address,
}
sized!(StepTables, 48);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ApplyParams {
    pub step: StepTables,
    pub ring: Address,
    pub last_tokens: Address,
    pub block_tables: Address,
    pub ring_bytes: u64,
    pub rows_offset: u64,
    pub outputs_offset: u64,
    pub updates_offset: u64,
    pub tokens: u32,
    pub rows: u32,
    pub outputs: u32,
    pub reserved: u32,
}
sized!(ApplyParams, 120);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FinishParams {
    pub step: StepTables,
    pub hidden: Address,
    pub sampled: Address,
    pub results: Address,
    pub cols: u32,
    pub outputs_max: u32,
    pub ring_slots: u32,
    pub reserved: u32,
}
sized!(FinishParams, 88);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct EmbedParams {
    pub step: StepTables,
    pub table: Address,
    pub out: Address,
    pub cols: u32,
    pub stride: u32,
    pub first_token: u32,
    pub table_rows: u32,
}
sized!(EmbedParams, 80);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct NormParams {
    pub gather: Address,
    pub x: Address,
    pub scale: Address,
    pub out: Address,
    pub cols: u32,
    pub eps: f32,
}
sized!(NormParams, 40);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RopeParams {
    pub step: StepTables,
    pub table: Address,
    pub pairs: u32,
    pub factor: f32,
    pub frequencies: [f32; ROPE_PAIRS_MAX],
}
sized!(RopeParams, 576);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FillParams {
    pub out: Address,
    pub count: u64,
    pub seed: u64,
    pub range: f32,
    pub reserved: u32,
}
sized!(FillParams, 32);

/// See `cuda/params.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StampParams {
    pub state: Address,
    pub out: Address,
    pub place: u32,
    pub places: u32,
    pub is_first: u32,
    pub reserved: u32,
}
sized!(StampParams, 32);
