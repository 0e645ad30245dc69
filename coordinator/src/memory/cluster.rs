//! What all processes of a cluster may take together.

use super::available::AvailableMemory;
use super::cgroup::MemoryCgroup;
use super::kernel_files::KernelFiles;

/// Memory that is taken to be free where the kernel does not say.
pub(super) const UNKNOWN_BYTES: u64 = 1 << 30;

/// What all processes of a cluster may take together, without swapping.
pub fn available_to_cluster(files: &KernelFiles) -> AvailableMemory {
    let machine = AvailableMemory { bytes: free_bytes(files), limit: None };
    let cgroup = MemoryCgroup::of_this_process(files);
    let limited = cgroup.as_ref().and_then(MemoryCgroup::available);
    limited.filter(|limited| limited.bytes < machine.bytes).unwrap_or(machine)
}

fn free_bytes(files: &KernelFiles) -> u64 {
    let meminfo = files.read("/proc/meminfo");
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = kib.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or(UNKNOWN_BYTES, |kib| kib.saturating_mul(1024))
}
