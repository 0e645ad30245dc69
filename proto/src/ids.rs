//! Newtypes for the numbers that travel, so that a slot is never taken for a block.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// One replica of the model: one scheduler, one fleet.
    ReplicaId(u32)
);
id!(
    /// Counts rebuilds of a group; results of an older epoch are dropped.
    Epoch(u32)
);
id!(
    /// Counts plans within an epoch, from 1.
    StepId(u64)
);
id!(
    /// Position of a worker in its group.
    Rank(u32)
);
id!(
    /// A sequence's place in the workers' tables.
    SlotId(u32)
);
id!(
    /// A block of a KV group's pool.
    BlockId(u32)
);
id!(
    /// Index into `ModelSpec::kv_groups`: layers that share a block table.
    KvGroup(u32)
);

/// A token id. Plain, because arithmetic on vocabularies is everywhere.
pub type Token = u32;

impl SlotId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl BlockId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl KvGroup {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl StepId {
    /// The step after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
