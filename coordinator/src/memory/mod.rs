//! How much memory a cluster on this host may take: what is free, and every limit that is set.
//!
//! A container's limit, a shell's `ulimit`: who takes more than the smallest of them is killed or
//! refused, however much the machine has. The only readers of `/proc` and `/sys`, under a root that
//! tests choose. Deliberately absent: what a model takes; that is the ledger's
//! (`binfer_shard::fit`).

mod budget;
mod cgroup;
mod oom;
mod process;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use cgroup::MemoryCgroup;

pub use budget::HostBudget;
pub use oom::OomKills;

/// Memory that is taken to be free where the kernel does not say.
const UNKNOWN_BYTES: u64 = 1 << 30;

/// What the kernel says, in `/proc` and `/sys`.
#[derive(Clone, Debug)]
pub struct KernelFiles {
    root: PathBuf,
}

/// Bytes that may be taken, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvailableMemory {
    /// What the limit leaves beside what is taken already.
    pub bytes: u64,
    /// "memory.max of /sys/fs/cgroup/a, 2048 MiB"; none where the machine has no more.
    pub limit: Option<String>,
}

impl KernelFiles {
    /// Of this host.
    pub fn here() -> Self {
        Self::at("/")
    }

    /// Of the tree of files under `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// What all processes of a cluster may take together, without swapping.
    pub fn shared(&self) -> AvailableMemory {
        let machine = AvailableMemory { bytes: self.available_bytes(), limit: None };
        let cgroup = MemoryCgroup::of_this_process(&self.root);
        let limited = cgroup.as_ref().and_then(MemoryCgroup::room);
        limited.filter(|limited| limited.bytes < machine.bytes).unwrap_or(machine)
    }

    /// What one process of so many compute threads may take, where it is limited by itself.
    pub fn process(&self, threads: u32) -> Option<AvailableMemory> {
        process::room(&self.root, threads)
    }

    /// Begins to count the processes that the kernel kills for want of memory.
    pub fn oom_kills(&self) -> OomKills {
        OomKills::from_now_on(self)
    }

    fn available_bytes(&self) -> u64 {
        let meminfo = read(&self.root.join("proc/meminfo"));
        let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
        let kib = kib.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map_or(UNKNOWN_BYTES, |kib| kib.saturating_mul(1024))
    }
}

/// The file's text; empty if it cannot be read, since no kernel has all of these files.
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number behind `key` in a file of lines `key number`.
fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}
