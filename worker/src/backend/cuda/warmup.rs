//! The warmup step, run before the first one: a chunk of a prompt, so that nothing which CUDA
//! graphs do not hold runs for the first time when somebody waits.
//!
//! It writes cache that no sequence owns yet, and nobody reads what it samples.

use binfer_proto::{BlockId, Sampling, SlotId};

use super::launch::to_u32;
use crate::backend::MemoryLayout;
use crate::batch::{Batch, BatchBlocks, BatchOutput, BatchRow, TokenInput};

/// Tokens of the chunk: more than decode steps have, so that gemms go the way of prompts.
const TOKENS: usize = 512;

/// The step, within what `layout` has room for; none where there is no cache.
pub(super) fn warmup(layout: &MemoryLayout) -> Option<Batch> {
    let positions = |kv: &crate::backend::KvLayerLayout| {
        let blocks = layout.blocks_per_slot.get(kv.kv_group).copied().unwrap_or(0);
        kv.blocks.min(blocks) * kv.block_tokens
    };
    let room = layout.kv.iter().map(positions).min()?;
    let count = TOKENS.min(layout.tokens_max).min(room);
    if count == 0 || layout.slots_max.min(layout.outputs_max) == 0 {
        return None;
    }
    let slot = SlotId(0);
    let table = |group: usize| {
        let layer = layout.kv.iter().find(|kv| kv.kv_group == group);
        let blocks = layer.map_or(0, |kv| count.div_ceil(kv.block_tokens.max(1)));
        let ids = (0..blocks).map(|block| BlockId(to_u32(block))).collect();
        BatchBlocks { slot, kv_group: group, first: 0, ids }
    };
    let output = BatchOutput {
        token: count - 1,
        slot,
        sampling: Sampling::GREEDY,
        seed: 0,
        choice: 0,
        position: to_u32(count),
        biases: 0,
        logprobs: 0,
    };
    Some(Batch {
        opened: Vec::new(),
        new_blocks: (0..layout.blocks_per_slot.len()).map(table).collect(),
        tokens: vec![TokenInput::Known(0); count],
        positions: (0..count).map(to_u32).collect(),
        rows: vec![BatchRow { slot, first: 0, count, start: 0 }],
        outputs: vec![output],
        masked: false,
    })
}

#[cfg(test)]
mod tests {
    use binfer_shard::spec::KvShape;

    use super::*;
    use crate::backend::KvLayerLayout;
    use crate::backend::check_batch::check_batch;

    #[test]
    fn it_stays_within_what_was_planned() {
        let layer = |kv_group, blocks| KvLayerLayout {
            kv_group,
            blocks,
            block_tokens: 64,
            shape: KvShape::Heads { kv_heads: 1, head_dim: 8 },
        };
        let layout = MemoryLayout {
            tokens_max: 8192,
            blocks_per_slot: vec![100, 100],
            slots_max: 4,
            outputs_max: 4,
            vocab: 9,
            kv: vec![layer(0, 50), layer(1, 50)],
            ..MemoryLayout::default()
        };
        let tokens = |layout: &MemoryLayout| {
            let batch = warmup(layout)?;
            check_batch(&batch, layout).unwrap();
            Some((batch.tokens.len(), batch.new_blocks[1].ids.len()))
        };
        assert_eq!(tokens(&layout), Some((512, 8)));
        assert_eq!(tokens(&MemoryLayout { tokens_max: 100, ..layout.clone() }), Some((100, 2)));
        let kv = vec![layer(0, 50), layer(1, 3)];
        assert_eq!(tokens(&MemoryLayout { kv, ..layout.clone() }), Some((192, 3)));
        let short = MemoryLayout { blocks_per_slot: vec![1, 1], ..layout.clone() };
        assert_eq!(tokens(&short), Some((64, 1)));
        assert_eq!(tokens(&MemoryLayout { kv: Vec::new(), ..layout }), None);
    }
}
