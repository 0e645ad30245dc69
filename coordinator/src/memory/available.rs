//! An amount of memory and the limit that it comes from.

/// Bytes that may be taken, and the limit that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvailableMemory {
    /// What the limit leaves beside what is taken already.
    pub bytes: u64,
    /// The limit, for example "memory.max of /sys/fs/cgroup/a, 2048 MiB"; `None` where the machine
    /// itself is the limit.
    pub limit: Option<String>,
}

pub(super) fn mib(bytes: u64) -> u64 {
    bytes >> 20
}
