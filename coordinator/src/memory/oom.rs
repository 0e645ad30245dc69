//! Whether a process was killed because memory ran out.
//!
//! The kernel sends the same signal 9 as anybody, but it counts what it kills so in the process's
//! memory cgroup.

use super::KernelFiles;
use super::cgroup::MemoryCgroup;

/// Counts kills for want of memory since it was made.
#[derive(Clone, Debug)]
pub struct OomKills {
    kernel: KernelFiles,
    cgroup: Option<MemoryCgroup>,
    before: u64,
}

impl OomKills {
    pub(super) fn from_now_on(kernel: &KernelFiles) -> Self {
        let cgroup = MemoryCgroup::of_this_process(&kernel.root);
        let before = cgroup.as_ref().and_then(MemoryCgroup::oom_kills).unwrap_or(0);
        Self { kernel: kernel.clone(), cgroup, before }
    }

    /// If a process of the cgroup was killed since, why, and what to do about it.
    pub fn cause(&self) -> Option<String> {
        let cgroup = self.cgroup.as_ref()?;
        cgroup.oom_kills().filter(|kills| *kills > self.before)?;
        let limit = self.kernel.shared().limit;
        let limit = limit.unwrap_or_else(|| "the machine's, or a limit not seen here".to_owned());
        Some(format!(
            "by the kernel, because memory ran out ({limit}): give more memory, fewer \
             --kv-cache-tokens or a smaller model"
        ))
    }
}
