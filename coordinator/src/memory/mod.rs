//! How much memory a cluster on this host may take: what is free, and every limit that is set.
//!
//! A container's limit and a shell's `ulimit` count as much as the machine: a process that takes
//! more than the smallest of them is killed or refused. Only this module reads memory figures out
//! of `/proc` and `/sys`. What a model takes is worked out by `binfer_shard::fit`.

mod available;
mod budget;
mod cgroup;
mod cluster;
mod kernel_files;
mod oom;
mod process;
#[cfg(test)]
mod tests;

pub use available::AvailableMemory;
pub use budget::HostBudget;
pub use cluster::available_to_cluster;
pub use kernel_files::KernelFiles;
pub use oom::OomKills;
