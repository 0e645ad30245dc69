//! The memory that a rank takes before it is ready, layer by layer.

use binfer_shard::spec::KvShape;

use super::error::BackendError;

/// All memory that a device takes before it is ready. Nothing is allocated for steps later.
#[derive(Clone, Debug, Default)]
pub struct MemoryLayout {
    /// Elements of the activation arena, four bytes each.
    pub arena: usize,
    /// Input tokens of a step.
    pub tokens_max: usize,
    /// Columns of the residual stream.
    pub hidden: usize,
    /// Columns of the widest tensor that is normed before a gemm.
    pub normed_max: usize,
    /// Columns of the widest tensor between a layer's gemms.
    pub intermediate: usize,
    /// Blocks of a sequence, by KV group.
    pub blocks_per_slot: Vec<usize>,
    /// Slots with a last sampled token.
    pub slots_max: usize,
    /// Rows that one step may sample.
    pub outputs_max: usize,
    /// Width of gathered logits.
    pub vocab: usize,
    /// Rows of the head by rank.
    pub vocab_rows: Vec<usize>,
    /// KV caches, by layer.
    pub kv: Vec<KvLayerLayout>,
    /// Experts of a layer, over all ranks; 0 where no layer is a mixture.
    pub experts_max: usize,
    /// Experts that a token is sent to in a layer.
    pub experts_per_token_max: usize,
    /// Times that a step may note; 0 where nobody asks for any.
    pub stamps_max: usize,
}

/// One layer's KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayerLayout {
    /// Index of the layer's KV group: its block tables.
    pub kv_group: usize,
    /// Blocks of the layer's KV group.
    pub blocks: usize,
    /// Positions in a block.
    pub block_tokens: usize,
    /// What is kept of a position on this rank.
    pub shape: KvShape,
}

/// One layer's cache of keys and values by head: K and V each hold
/// `blocks * kv_heads * block_tokens * head_dim` elements. Their order is the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHeadsLayout {
    /// Blocks of the layer's KV group.
    pub blocks: usize,
    /// KV heads on this rank.
    pub kv_heads: usize,
    /// Positions in a block.
    pub block_tokens: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl KvLayerLayout {
    /// The cache by head, for backends that have kernels for no other shape.
    pub fn heads(&self) -> Result<KvHeadsLayout, BackendError> {
        match self.shape {
            KvShape::Heads { kv_heads, head_dim } => Ok(KvHeadsLayout {
                blocks: self.blocks,
                kv_heads: kv_heads as usize,
                block_tokens: self.block_tokens,
                head_dim: head_dim as usize,
            }),
            KvShape::Latent { width } => Err(BackendError::NoKernel {
                operation: "allocate",
                what: format!("a latent KV cache of width {width}"),
            }),
        }
    }
}
