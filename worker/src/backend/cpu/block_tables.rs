//! Block tables, as the steps so far have written them: which block of the cache holds which
//! positions.

use binfer_proto::{BlockId, SlotId};

use crate::backend::{BackendError, MemoryLayout};
use crate::batch::BatchBlocks;

/// The tables of all slots.
#[derive(Default)]
pub(super) struct BlockTables {
    /// `[kv_group][slot]`.
    tables: Vec<Vec<Vec<BlockId>>>,
}

impl BlockTables {
    /// Empty tables of all slots and KV groups of `layout`.
    pub(super) fn new(layout: &MemoryLayout) -> Self {
        let slots = vec![Vec::new(); layout.slots_max];
        Self { tables: vec![slots; layout.blocks_per_slot.len()] }
    }

    /// Writes what a step changes, which was checked against the memory layout.
    pub(super) fn write(&mut self, new_blocks: &[BatchBlocks]) -> Result<(), BackendError> {
        for BatchBlocks { slot, kv_group, first, ids } in new_blocks {
            let table = &mut self.tables[*kv_group][slot.index()];
            if *first > table.len() {
                let cause = format!("slot {slot}: blocks from {first} on behind {}", table.len());
                return Err(BackendError::Args { operation: "upload", cause });
            }
            table.truncate(*first);
            table.extend_from_slice(ids);
        }
        Ok(())
    }

    /// A slot's table; empty where there is none.
    pub(super) fn of(&self, kv_group: usize, slot: SlotId) -> &[BlockId] {
        let table = self.tables.get(kv_group).and_then(|slots| slots.get(slot.index()));
        table.map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(first: usize, ids: &[u32]) -> BatchBlocks {
        let ids = ids.iter().map(|id| BlockId(*id)).collect();
        BatchBlocks { slot: SlotId(1), kv_group: 0, first, ids }
    }

    #[test]
    fn tables_grow_begin_anew_and_have_no_gaps() {
        let layout =
            MemoryLayout { slots_max: 2, blocks_per_slot: vec![9], ..MemoryLayout::default() };
        let mut tables = BlockTables::new(&layout);
        tables.write(&[blocks(0, &[7, 3]), blocks(2, &[5])]).unwrap();
        assert_eq!(tables.of(0, SlotId(1)), [7, 3, 5].map(BlockId));
        assert!(tables.write(&[blocks(4, &[1])]).unwrap_err().to_string().contains("from 4 on"));
        tables.write(&[blocks(0, &[2])]).unwrap();
        assert_eq!(tables.of(0, SlotId(1)), [BlockId(2)]);
        assert!(tables.of(0, SlotId(0)).is_empty() && tables.of(1, SlotId(1)).is_empty());
    }
}
