//! The limits of the text process.
//!
//! The process sets them itself: wide ones before it reads a model's file, and narrower ones before
//! it takes a job.

use crate::text::ChatTemplate;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{Error, Result};

/// How many jobs a text process does at the same time.
pub const JOBS_AT_ONCE: usize = 4;
/// The address space while a model's files are read. The largest known tokenizer takes 1 GiB.
pub(super) const START_BYTES: u64 = 8 << 30;
/// The address space that jobs may take beside the tokenizer. A text takes 150 times its own size,
/// one of single letters 350 times, and the front accepts none over 4 MiB. Several of the longest
/// texts at once may end the process; each is then tried once more, alone.
pub(super) const JOBS_BYTES: u64 = 3 << 30;
/// How many files may be open while jobs are done: stdin, stdout and stderr.
const FILES: u64 = 3;

/// Sets the limits for the start.
pub(super) fn before_start() -> Result<()> {
    lower(Resource::Core, 0)?;
    lower(Resource::As, START_BYTES)?;
    // Where memory runs out, the kernel is asked to kill this process first. Only root may ask that
    // of a process whose program it may run but not read, and the limits above hold without it.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}

/// Sets the limits for jobs.
pub(super) fn before_jobs() -> Result<()> {
    let stacks = (JOBS_AT_ONCE * ChatTemplate::STACK_BYTES) as u64;
    lower(Resource::As, address_space()?.saturating_add(stacks).saturating_add(JOBS_BYTES))?;
    lower(Resource::Nofile, FILES)
}

fn lower(resource: Resource, limit: u64) -> Result<()> {
    let limit = Some(getrlimit(resource).maximum.map_or(limit, |most| most.min(limit)));
    Ok(setrlimit(resource, Rlimit { current: limit, maximum: limit })?)
}

/// The bytes of address space that this process has.
fn address_space() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    kib.map(|kib| kib.saturating_mul(1024))
        .ok_or_else(|| Error::other("/proc/self/status does not tell VmSize"))
}
