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
    /// A replica of the model, which has one scheduler and one fleet of workers.
    ReplicaId(u32)
);
id!(
    /// Counts the lives of a replica. Results of an earlier epoch are dropped.
    Epoch(u32)
);
id!(
    /// Counts plans within an epoch, from 1.
    StepId(u64)
);
id!(
    /// Number of a worker in its replica.
    Rank(u32)
);
id!(
    /// Number of a running sequence in the tables of the workers.
    SlotId(u32)
);
id!(
    /// Number of a block in the pool of its KV group.
    BlockId(u32)
);
id!(
    /// Index of a KV group, `ModelSpec::kv_groups`: layers that share a block table.
    KvGroup(u32)
);

/// A token id. A plain number, because arithmetic on vocabularies is everywhere.
pub type Token = u32;

impl SlotId {
    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl BlockId {
    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl KvGroup {
    /// The number as an index.
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
