//! The blocks of one KV group: which are free, who owns the others, which are cached.
//!
//! A block is free, used (owned by block tables) or idle (cached, with no owner). Deliberately
//! absent: what a block holds (`prefix_tree.rs`), and block tables (`sequence.rs`).

use std::collections::BTreeMap;

use binfer_proto::BlockId;

use super::prefix_tree::{PrefixId, PrefixTree};

#[derive(Debug, Default)]
pub(super) struct BlockPool {
    blocks: Vec<BlockState>,
    free: Vec<BlockId>,
    /// Cached blocks without an owner, in the order in which they are evicted: those that are worth
    /// less, then those that lost their last owner earlier.
    idle: BTreeMap<(Worth, u64), BlockId>,
    /// The cached block of each prefix that ends in one.
    cached: BTreeMap<PrefixId, BlockId>,
    /// Counts releases, for the order of `idle`.
    clock: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct BlockState {
    refs: u32,
    prefix: Option<PrefixId>,
    released: (Worth, u64),
}

/// How likely an idle block is to be used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// It fell behind the window in the middle of an answer: only a text that leaves that answer
    /// just there would need it.
    Low,
    #[default]
    High,
}

impl BlockPool {
    pub(super) fn new(blocks: u32) -> Self {
        Self {
            blocks: vec![BlockState::default(); blocks as usize],
            free: (0..blocks).rev().map(BlockId).collect(),
            ..Self::default()
        }
    }

    /// How many blocks [`Self::take`] can give: free and idle ones.
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    pub(super) fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Gives a block to a new owner. If none is free, an idle one is evicted.
    pub(super) fn take(&mut self, tree: &mut PrefixTree) -> Option<BlockId> {
        if self.free.is_empty() {
            self.evict_idle(tree);
        }
        let id = self.free.pop()?;
        self.blocks[id.index()].refs = 1;
        Some(id)
    }

    /// Adds an owner to a cached block.
    pub(super) fn share(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.index()];
        if block.refs == 0 {
            self.idle.remove(&block.released);
        }
        block.refs += 1;
    }

    /// Takes an owner from a block. Without an owner it is idle if it is cached, otherwise free.
    pub(super) fn release(&mut self, id: BlockId, worth: Worth) {
        let block = &mut self.blocks[id.index()];
        assert!(block.refs > 0, "block {id} is released but has no owner");
        block.refs -= 1;
        if block.refs > 0 {
            return;
        }
        if block.prefix.is_some() {
            self.clock += 1;
            block.released = (worth, self.clock);
            self.idle.insert(block.released, id);
        } else {
            self.free.push(id);
        }
    }

    /// Caches a full block. If a block with the same prefix is cached already, that one stays.
    pub(super) fn cache(&mut self, id: BlockId, prefix: PrefixId, tree: &mut PrefixTree) {
        let block = &mut self.blocks[id.index()];
        if block.prefix.is_none() && !self.cached.contains_key(&prefix) {
            block.prefix = Some(prefix);
            self.cached.insert(prefix, id);
            tree.hold(prefix);
        }
    }

    pub(super) fn find(&self, prefix: PrefixId) -> Option<BlockId> {
        self.cached.get(&prefix).copied()
    }

    pub(super) fn is_idle(&self, id: BlockId) -> bool {
        let block = &self.blocks[id.index()];
        block.refs == 0 && block.prefix.is_some()
    }

    /// Takes a block out of the cache. Its owners keep it.
    pub(super) fn uncache(&mut self, id: BlockId, tree: &mut PrefixTree) {
        if let Some(prefix) = self.blocks[id.index()].prefix.take() {
            self.cached.remove(&prefix);
            tree.release(prefix);
        }
    }

    /// Frees the block that is worth least and, of those, idle for longest. Returns false if none
    /// is idle.
    pub(super) fn evict_idle(&mut self, tree: &mut PrefixTree) -> bool {
        let Some((_, id)) = self.idle.pop_first() else { return false };
        if let Some(prefix) = self.blocks[id.index()].prefix {
            tree.note_eviction(prefix);
        }
        self.uncache(id, tree);
        self.free.push(id);
        true
    }
}

#[cfg(test)]
impl BlockPool {
    /// The prefixes of cached blocks.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = PrefixId> {
        self.cached.keys().copied()
    }

    /// Whether a block has one owner and is not cached.
    pub(super) fn is_private(&self, id: BlockId) -> bool {
        let block = &self.blocks[id.index()];
        block.refs == 1 && block.prefix.is_none()
    }

    /// Checks that free, used and idle blocks add up, and that blocks have as many owners as `refs`
    /// says.
    pub(super) fn check(&self, refs: &[u32]) -> Result<(), String> {
        let mut entries = vec![0_u32; self.blocks.len()];
        for id in self.free.iter().chain(self.idle.values()) {
            entries[id.index()] += 1;
        }
        for (index, (block, wanted)) in self.blocks.iter().zip(refs).enumerate() {
            if block.refs != *wanted {
                return Err(format!("block {index} counts {} owners, has {wanted}", block.refs));
            }
            if entries[index] != u32::from(block.refs == 0) {
                return Err(format!("block {index} is listed {} times", entries[index]));
            }
        }
        if let Some(id) = self.free.iter().find(|id| self.blocks[id.index()].prefix.is_some()) {
            return Err(format!("block {id} is free and cached"));
        }
        for (prefix, id) in &self.cached {
            if self.blocks[id.index()].prefix != Some(*prefix) {
                return Err(format!("block {id} is cached with content that it does not have"));
            }
        }
        for (released, id) in &self.idle {
            let block = &self.blocks[id.index()];
            if block.released != *released || block.prefix.is_none() {
                return Err(format!("block {id} is idle without being cached"));
            }
        }
        Ok(())
    }
}
