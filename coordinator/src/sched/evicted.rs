//! Which prefixes were evicted lately: enough to tell an answer's reader that its prompt was cached
//! once.
//!
//! Only their fingerprints are kept, and only so many. Two prefixes with one fingerprint give a
//! wrong reason and nothing else: hits never come from here.

use std::collections::{BTreeMap, VecDeque};

/// Stands for a salt and all tokens up to the end of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    /// That of a longer text.
    pub(super) fn then(self, words: impl IntoIterator<Item = u64>) -> Self {
        let mix = |hash: u64, word: u64| {
            let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^ (hash >> 29)
        };
        Self(words.into_iter().fold(self.0.rotate_left(7), mix))
    }
}

#[derive(Debug, Default)]
pub(super) struct EvictedPrefixes {
    max: usize,
    /// The longest evicted first.
    order: VecDeque<Fingerprint>,
    /// How often each is in `order`.
    counts: BTreeMap<Fingerprint, u32>,
}

impl EvictedPrefixes {
    /// Remembers the last `max` evictions.
    pub(super) fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
    }

    pub(super) fn insert(&mut self, fingerprint: Fingerprint) {
        self.order.push_back(fingerprint);
        *self.counts.entry(fingerprint).or_default() += 1;
        if self.order.len() <= self.max {
            return;
        }
        if let Some(oldest) = self.order.pop_front()
            && let Some(count) = self.counts.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
    }

    pub(super) fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.counts.contains_key(&fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_evictions_are_remembered_and_no_more() {
        let mut evicted = EvictedPrefixes::new(3);
        let prefix = |word| Fingerprint::default().then([word]);
        for word in [1, 1, 2, 3] {
            evicted.insert(prefix(word));
        }
        assert!([1, 2, 3].into_iter().all(|word| evicted.contains(prefix(word))));
        evicted.insert(prefix(4));
        assert!(!evicted.contains(prefix(1)), "both of its evictions are long ago");
        assert_eq!((evicted.order.len(), evicted.counts.len()), (3, 3));
    }
}
