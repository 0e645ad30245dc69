//! Why no more of a prompt came out of the prefix cache, as answers tell it.

/// Why no more of a prompt came out of the prefix cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMiss {
    /// What follows is less than the cache's unit, or is the last token, which is always computed.
    TooShort,
    /// The text was cached, and its blocks were taken for others since.
    Evicted,
    /// Nothing is cached that goes on like the prompt.
    Different {
        /// Where the prompt parts from the cached text that is like it for longest, or where that
        /// one's last whole block ends: an index into the prompt's tokens.
        token: u32,
    },
    /// Nothing is cached under the request's salt at all.
    Salt,
    /// There is no prefix cache.
    Disabled,
}

/// Numbers of sequences by why they got no more out of the prefix cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheMisses {
    /// Of [`CacheMiss::TooShort`].
    pub too_short: u64,
    /// Of [`CacheMiss::Evicted`].
    pub evicted: u64,
    /// Of [`CacheMiss::Different`].
    pub different: u64,
    /// Of [`CacheMiss::Salt`].
    pub salt: u64,
}

impl CacheMisses {
    pub(super) fn count(&mut self, miss: CacheMiss) {
        match miss {
            CacheMiss::TooShort => self.too_short += 1,
            CacheMiss::Evicted => self.evicted += 1,
            CacheMiss::Different { .. } => self.different += 1,
            CacheMiss::Salt => self.salt += 1,
            CacheMiss::Disabled => {}
        }
    }
}
