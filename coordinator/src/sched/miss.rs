//! Finds out why no more of a prompt came out of the prefix cache.
//!
//! An answer tells nothing of texts with another salt: whoever gets a reason could have made all
//! the requests that it is about. Deliberately absent: the hit itself (`prefix.rs`).

use super::Scheduler;
use super::cache_miss::CacheMiss;
use super::prefix::PrefixHit;
use super::prefix_tree::{PrefixId, PrefixTree};
use super::sequence::{SequenceKey, to_u32};

impl Scheduler {
    /// Why a sequence got no more than `hit`, which was found just now.
    pub(super) fn cache_miss(&self, key: SequenceKey, hit: &PrefixHit) -> CacheMiss {
        if !self.config.prefix_cache {
            return CacheMiss::Disabled;
        }
        let (sequence, unit) = (&self.sequences[key], self.config.hit_unit());
        if sequence.tokens.len() <= hit.tokens + unit {
            return CacheMiss::TooShort;
        }
        let block_tokens = self.config.kv_groups[0].block_tokens as usize;
        let prefixes = &sequence.tables[0].prefixes;
        // A longer hit has these blocks at least. All are known where those of another KV group are
        // missing.
        let mut wanted = hit.tokens / block_tokens..(hit.tokens + unit) / block_tokens;
        let is_cached = |prefix| self.pools[0].find(prefix).is_some();
        let is_known = |prefix| is_cached(prefix) || self.prefixes.was_evicted(prefix);
        let Some(unknown) = wanted.find(|block| !is_known(prefixes[*block])) else {
            return CacheMiss::Evicted;
        };
        match self.prefixes.common_with_sibling(prefixes[unknown], is_cached) {
            None if unknown == 0 && sequence.salt.is_narrow() => CacheMiss::Salt,
            common => {
                let common = common.unwrap_or(0);
                CacheMiss::Different { token: to_u32(unknown * block_tokens + common) }
            }
        }
    }
}

impl PrefixTree {
    /// How many tokens of a prefix's last block are those of a prefix with the same parent: of the
    /// one that has the most of them and is in the cache. `None` if none is.
    fn common_with_sibling(
        &self,
        prefix: PrefixId,
        is_cached: impl Fn(PrefixId) -> bool,
    ) -> Option<usize> {
        let common = |(tokens, other): (&[_], &[_])| {
            tokens.iter().zip(other).take_while(|(one, other)| one == other).count()
        };
        self.nearest_siblings(prefix, is_cached).map(common).max()
    }
}
