//! Positional reads of many byte ranges into one buffer, neighbours gathered into one read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Something whose bytes can be had by their places: a file here, or one on the hub.
pub(crate) trait ReadAt: Sync {
    /// Fills `out` with the bytes that begin at `at`; an end before that is an error.
    fn fill(&self, out: &mut [u8], at: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn fill(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(out, at)
    }
}

/// Pieces closer together than a page are fetched by one read, the gap with them: the page would
/// be read anyway.
const GAP_BYTES_MAX: u64 = 4096;
/// Longest read that gathers several pieces; bounds the buffer beside the weights.
const GATHER_BYTES_MAX: u64 = 1 << 20;

/// Reads `ranges`, counted from byte `start` of the file, one after the other into `out`, which has
/// their length. An error comes with the byte at which its read began.
pub(crate) fn read(
    file: &File,
    start: u64,
    ranges: &[Range<u64>],
    out: &mut [u8],
) -> Result<(), (u64, io::Error)> {
    let mut pieces = Vec::with_capacity(ranges.len());
    let mut to = 0;
    for range in ranges {
        let bytes = to_usize(range.end - range.start);
        pieces.push(Piece { from: start + range.start, to, bytes });
        to += bytes;
    }
    pieces.sort_by_key(|piece| piece.from);
    let mut buffer = Vec::new();
    for gathered in pieces.chunk_by(near).flat_map(within_gather) {
        read_gathered(file, gathered, &mut buffer, out)
            .map_err(|error| (gathered[0].from, error))?;
    }
    Ok(())
}

/// One read for pieces that lie near each other, then each to its place.
fn read_gathered(
    file: &File,
    pieces: &[Piece],
    buffer: &mut Vec<u8>,
    out: &mut [u8],
) -> io::Result<()> {
    if let [piece] = pieces {
        return file.read_exact_at(&mut out[piece.to..][..piece.bytes], piece.from);
    }
    let start = pieces[0].from;
    buffer.resize(to_usize(pieces[pieces.len() - 1].end() - start), 0);
    file.read_exact_at(buffer, start)?;
    for piece in pieces {
        let from = to_usize(piece.from - start);
        out[piece.to..][..piece.bytes].copy_from_slice(&buffer[from..][..piece.bytes]);
    }
    Ok(())
}

/// Bytes of the file that go to one place.
#[derive(Clone, Copy)]
struct Piece {
    from: u64,
    to: usize,
    bytes: usize,
}

impl Piece {
    fn end(&self) -> u64 {
        self.from + self.bytes as u64
    }
}

fn near(one: &Piece, next: &Piece) -> bool {
    next.from <= one.end() + GAP_BYTES_MAX
}

/// Splits neighbours, sorted, so that each read stays short unless it is of one piece.
fn within_gather(pieces: &[Piece]) -> impl Iterator<Item = &[Piece]> {
    let mut rest = pieces;
    std::iter::from_fn(move || {
        let start = rest.first()?.from;
        let fits = |piece: &Piece| piece.end() - start <= GATHER_BYTES_MAX;
        let count = rest.iter().position(|piece| !fits(piece)).unwrap_or(rest.len()).max(1);
        let (now, later) = rest.split_at(count);
        rest = later;
        Some(now)
    })
}

/// For lengths that were checked against a buffer or a bound; on 64-bit targets it is exact.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
