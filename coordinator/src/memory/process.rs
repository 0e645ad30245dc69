//! Limits of one process, which every worker inherits: `ulimit -v` and `ulimit -d`.
//!
//! A worker does not run yet when its cache is sized, so what it takes beside tensors is a figure:
//! measured with the demo model, rounded up.

use std::path::Path;

use super::{AvailableMemory, mib, read};

/// A limit, by its line in /proc/self/limits.
struct ProcessLimit {
    line: &'static str,
    name: &'static str,
    /// What counts against it of a worker without tensors.
    base: u64,
    /// And of each of its compute threads.
    thread: u64,
}

const LIMITS: [ProcessLimit; 2] = [
    // The program, its libraries, and the allocator's reserve: 64 MiB of addresses a thread.
    ProcessLimit {
        line: "Max address space",
        name: "ulimit -v",
        base: 256 << 20,
        thread: 80 << 20,
    },
    ProcessLimit { line: "Max data size", name: "ulimit -d", base: 48 << 20, thread: 8 << 20 },
];

/// What the smallest limit leaves a worker of so many threads.
pub(super) fn room(root: &Path, threads: u32) -> Option<AvailableMemory> {
    let limits = read(&root.join("proc/self/limits"));
    let room = |limit: &ProcessLimit| {
        let soft = limits.lines().find_map(|line| line.strip_prefix(limit.line))?;
        let bytes: u64 = soft.split_whitespace().next()?.parse().ok()?;
        let base = limit.base.saturating_add(limit.thread.saturating_mul(threads.into()));
        Some(AvailableMemory {
            bytes: bytes.saturating_sub(base),
            limit: Some(format!("{}, {} MiB", limit.name, mib(bytes))),
        })
    };
    LIMITS.iter().filter_map(room).min_by_key(|room| room.bytes)
}
