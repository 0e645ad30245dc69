//! Whether a process was killed because memory ran out.
//!
//! The kernel then sends the same signal 9 as anybody else, but it also counts the kill in the
//! process's memory cgroup.

use super::cgroup::MemoryCgroup;
use super::cluster::available_to_cluster;
use super::kernel_files::KernelFiles;

/// Counts the kernel's kills for want of memory since it was made.
#[derive(Clone, Debug)]
pub struct OomKills {
    files: KernelFiles,
    cgroup: Option<MemoryCgroup>,
    before: u64,
}

impl OomKills {
    /// Begins to count.
    pub fn from_now_on(files: KernelFiles) -> Self {
        let cgroup = MemoryCgroup::of_this_process(&files);
        let before = cgroup.as_ref().and_then(MemoryCgroup::oom_kills).unwrap_or(0);
        Self { files, cgroup, before }
    }

    /// If a process of the cgroup was killed since, why, and what to do about it.
    pub fn cause(&self) -> Option<String> {
        let cgroup = self.cgroup.as_ref()?;
        cgroup.oom_kills().filter(|kills| *kills > self.before)?;
        let limit = available_to_cluster(&self.files).limit;
        let limit = limit.unwrap_or_else(|| "the machine's, or a limit not seen here".to_owned());
        Some(format!(
            "by the kernel, because memory ran out ({limit}): give more memory, fewer \
             --kv-cache-tokens or a smaller model"
        ))
    }
}
