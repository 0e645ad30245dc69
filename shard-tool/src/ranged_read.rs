//! Positional reads of byte ranges. Ranges that lie near each other are coalesced into one read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// A file that is read at positions. It may lie on this machine or on the hub.
pub(crate) trait ReadAt: Sync {
    /// Fills `out` with the bytes that begin at `at`. A file that ends before is an error.
    fn fill(&self, out: &mut [u8], at: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn fill(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(out, at)
    }
}

/// The longest gap that a coalesced read covers. The system reads a whole page anyway.
const COALESCE_GAP_BYTES_MAX: u64 = 4096;
/// The longest coalesced read. It bounds the buffer beside the weights.
const COALESCED_BYTES_MAX: u64 = 1 << 20;

/// Reads `ranges`, which count from byte `start` of the file, one after the other into `out`, which
/// has the length of all of them. An error comes with the byte at which its read began.
pub(crate) fn read_ranges(
    file: &File,
    start: u64,
    ranges: &[Range<u64>],
    out: &mut [u8],
) -> Result<(), (u64, io::Error)> {
    let mut copies = Vec::with_capacity(ranges.len());
    let mut to = 0;
    for range in ranges {
        let bytes = to_usize(range.end - range.start);
        copies.push(RangeCopy { from: start + range.start, to, bytes });
        to += bytes;
    }
    copies.sort_by_key(|copy| copy.from);
    let mut buffer = Vec::new();
    for coalesced in copies.chunk_by(near).flat_map(split_by_length) {
        read_coalesced(file, coalesced, &mut buffer, out)
            .map_err(|error| (coalesced[0].from, error))?;
    }
    Ok(())
}

/// Reads ranges that lie near each other at once, then copies each to its place.
fn read_coalesced(
    file: &File,
    copies: &[RangeCopy],
    buffer: &mut Vec<u8>,
    out: &mut [u8],
) -> io::Result<()> {
    if let [copy] = copies {
        return file.read_exact_at(&mut out[copy.to..][..copy.bytes], copy.from);
    }
    let start = copies[0].from;
    buffer.resize(to_usize(copies[copies.len() - 1].end() - start), 0);
    file.read_exact_at(buffer, start)?;
    for copy in copies {
        let from = to_usize(copy.from - start);
        out[copy.to..][..copy.bytes].copy_from_slice(&buffer[from..][..copy.bytes]);
    }
    Ok(())
}

/// A range of the file, and where its bytes go in the output.
#[derive(Clone, Copy)]
struct RangeCopy {
    from: u64,
    to: usize,
    bytes: usize,
}

impl RangeCopy {
    fn end(&self) -> u64 {
        self.from + self.bytes as u64
    }
}

fn near(one: &RangeCopy, next: &RangeCopy) -> bool {
    next.from <= one.end() + COALESCE_GAP_BYTES_MAX
}

/// Splits sorted neighbours so that each read of several ranges stays short.
fn split_by_length(copies: &[RangeCopy]) -> impl Iterator<Item = &[RangeCopy]> {
    let mut rest = copies;
    std::iter::from_fn(move || {
        let start = rest.first()?.from;
        let fits = |copy: &RangeCopy| copy.end() - start <= COALESCED_BYTES_MAX;
        let count = rest.iter().position(|copy| !fits(copy)).unwrap_or(rest.len()).max(1);
        let (now, later) = rest.split_at(count);
        rest = later;
        Some(now)
    })
}

/// Converts a length that was checked against a buffer or a bound.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
