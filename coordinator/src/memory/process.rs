//! Limits of one process, which every worker inherits: `ulimit -v` and `ulimit -d`.
//!
//! The workers do not run yet when their cache is sized. What a worker takes beside its tensors is
//! therefore a constant: measured with the demo model, and rounded up.

use super::available::{AvailableMemory, mib};
use super::kernel_files::KernelFiles;

/// A limit of a process, as /proc/self/limits has it.
struct ProcessLimit {
    line: &'static str,
    name: &'static str,
    /// Bytes that a worker without tensors takes of it.
    base: u64,
    /// Bytes that each compute thread takes of it.
    thread: u64,
}

const LIMITS: [ProcessLimit; 2] = [
    // The program, its libraries, and the allocator's reserve of 64 MiB of addresses per thread.
    ProcessLimit {
        line: "Max address space",
        name: "ulimit -v",
        base: 256 << 20,
        thread: 80 << 20,
    },
    ProcessLimit { line: "Max data size", name: "ulimit -d", base: 48 << 20, thread: 8 << 20 },
];

/// What the smallest limit leaves a worker of `threads` compute threads; `None` without a limit.
pub(super) fn available_to_process(files: &KernelFiles, threads: u32) -> Option<AvailableMemory> {
    let limits = files.read("/proc/self/limits");
    let available = |limit: &ProcessLimit| {
        let soft = limits.lines().find_map(|line| line.strip_prefix(limit.line))?;
        let bytes: u64 = soft.split_whitespace().next()?.parse().ok()?;
        let base = limit.base.saturating_add(limit.thread.saturating_mul(threads.into()));
        Some(AvailableMemory {
            bytes: bytes.saturating_sub(base),
            limit: Some(format!("{}, {} MiB", limit.name, mib(bytes))),
        })
    };
    LIMITS.iter().filter_map(available).min_by_key(|available| available.bytes)
}
