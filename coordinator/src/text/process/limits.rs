//! What the text process may take. It sets these itself, before it touches a model's file, and
//! closer ones before it takes a job.

use super::JOBS_AT_ONCE;
use super::role::STACK_BYTES;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{Error, Result};

/// Address space while a model's files are read: the largest known tokenizer takes 1 GiB.
pub(super) const START_BYTES: u64 = 8 << 30;
/// Address space that jobs may take beside what the tokenizer took. A text takes about 100 times
/// its own size, and the front takes none over 4 MiB.
pub(super) const JOBS_BYTES: u64 = 2 << 30;
/// Open files while jobs are done: the three that every process has.
const FILES: u64 = 3;

/// For the start. Where memory is short, the kernel is asked to take this process first.
pub(super) fn before_start() -> Result<()> {
    lower(Resource::Core, 0)?;
    lower(Resource::As, START_BYTES)?;
    std::fs::write("/proc/self/oom_score_adj", "1000")
}

/// For jobs.
pub(super) fn before_jobs() -> Result<()> {
    let stacks = (JOBS_AT_ONCE * STACK_BYTES) as u64;
    lower(Resource::As, address_space()?.saturating_add(stacks).saturating_add(JOBS_BYTES))?;
    lower(Resource::Nofile, FILES)
}

fn lower(resource: Resource, limit: u64) -> Result<()> {
    let limit = Some(getrlimit(resource).maximum.map_or(limit, |most| most.min(limit)));
    Ok(setrlimit(resource, Rlimit { current: limit, maximum: limit })?)
}

/// Bytes of address space that this process has.
fn address_space() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    kib.map(|kib| kib.saturating_mul(1024))
        .ok_or_else(|| Error::other("/proc/self/status does not tell VmSize"))
}
