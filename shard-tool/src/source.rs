//! An opened checkpoint: spec, metadata, and positional reads of just the slices that are wanted.
//!
//! Today a single GGUF file. Opening reads the header and checks everything that can be checked
//! without reading weights, so a bad file fails in milliseconds, before memory is taken. Reads take
//! `&self` and share no position: many threads may read at once. No memory map: one would turn a
//! file that is cut while being served into a signal.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::gguf::TensorInfo;
use crate::{Error, ErrorKind, Gguf, LocalPart, ModelSpec, families};

/// Pieces closer together than a page are fetched by one read, the gap with them: the page would
/// be read anyway.
const GAP_BYTES_MAX: u64 = 4096;
/// Longest read that gathers several pieces; bounds the buffer beside the weights.
const GATHER_BYTES_MAX: u64 = 1 << 20;
/// How many tensors the digest looks into, and how far.
const SAMPLES_MAX: usize = 16;
const SAMPLE_BYTES_MAX: usize = 4096;

/// A checkpoint, open for reading.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: File,
    gguf: Gguf,
    spec: ModelSpec,
    digest: u64,
}

impl Source {
    /// Opens and checks a checkpoint.
    ///
    /// # Errors
    /// Every kind but `Layout`: no such file, not a model, truncated, not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let (file, file_bytes) = open_file(path)?;
        let gguf = Gguf::read(&file, path, file_bytes)?;
        let spec = families::spec(&gguf, path)?;
        let digest = digest(&file, path, &gguf, file_bytes)?;
        Ok(Self { path: path.to_path_buf(), file, gguf, spec, digest })
    }

    /// What the model is made of.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Header of the file: the tokenizer is in its metadata.
    #[must_use]
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// As given to [`Self::open`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether two processes opened the same checkpoint: XXH3-64 over the whole header, the
    /// file's length, and 4 KiB out of each of 16 tensors. Not a checksum of all weights, which
    /// would cost a pass over them; two trainings of one model differ in every tensor.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Reads a rank's share of a tensor, packed, into `out` of exactly [`LocalPart::bytes`].
    ///
    /// # Errors
    /// `Io` or `Truncated` when the file changed since it was opened; `Mismatch` when the part is
    /// not one of this checkpoint or `out` has another length.
    pub fn read_into(&self, part: &LocalPart, out: &mut [u8]) -> Result<(), Error> {
        let tensor = self.check_part(part, out.len())?;
        let mut pieces = Vec::with_capacity(part.ranges.len());
        let mut to = 0;
        for range in &part.ranges {
            let bytes = to_usize(range.end - range.start);
            pieces.push(Piece { from: tensor.offset + range.start, to, bytes });
            to += bytes;
        }
        pieces.sort_by_key(|piece| piece.from);
        let mut buffer = Vec::new();
        for gathered in pieces.chunk_by(near).flat_map(within_gather) {
            self.read_gathered(gathered, &mut buffer, out)
                .map_err(|error| self.read_error(tensor, gathered[0].from, &error))?;
        }
        Ok(())
    }

    /// One read for pieces that lie near each other, then each to its place.
    fn read_gathered(
        &self,
        pieces: &[Piece],
        buffer: &mut Vec<u8>,
        out: &mut [u8],
    ) -> io::Result<()> {
        if let [piece] = pieces {
            return self.file.read_exact_at(&mut out[piece.to..][..piece.bytes], piece.from);
        }
        let start = pieces[0].from;
        buffer.resize(to_usize(pieces[pieces.len() - 1].end() - start), 0);
        self.file.read_exact_at(buffer, start)?;
        for piece in pieces {
            let from = to_usize(piece.from - start);
            out[piece.to..][..piece.bytes].copy_from_slice(&buffer[from..][..piece.bytes]);
        }
        Ok(())
    }

    /// The tensor that `part` is cut from, if part, file and buffer agree.
    fn check_part(&self, part: &LocalPart, out_bytes: usize) -> Result<&TensorInfo, Error> {
        let refuse = |cause: String| {
            Error::new(ErrorKind::Mismatch, cause).file(&self.path).tensor(&part.source)
        };
        let tensor = self.gguf.tensor(&part.source);
        let tensor = tensor.ok_or_else(|| refuse("no such tensor".to_owned()))?;
        let ranges = &part.ranges;
        let within =
            |range: &std::ops::Range<u64>| range.start <= range.end && range.end <= tensor.bytes;
        if part.dtype != tensor.dtype || !ranges.iter().all(within) {
            return Err(refuse("the slice was made for another checkpoint".to_owned()));
        }
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        if bytes != out_bytes as u64 {
            return Err(refuse(format!("a slice of {bytes} bytes into {out_bytes}")));
        }
        Ok(tensor)
    }

    fn read_error(&self, tensor: &TensorInfo, at: u64, error: &io::Error) -> Error {
        let error = if error.kind() == io::ErrorKind::UnexpectedEof {
            let cause = "the file became shorter while it was read";
            Error::new(ErrorKind::Truncated, cause).file(&self.path)
        } else {
            Error::io(&self.path, "read weights", error)
        };
        error.tensor(&tensor.name).at(at)
    }
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

fn open_file(path: &Path) -> Result<(File, u64), Error> {
    let failed = |error: io::Error| Error::io(path, "open", &error);
    // Asked before opening: opening a pipe would wait for its writer.
    let kind = std::fs::metadata(path).map_err(failed)?;
    if kind.is_dir() {
        let error = Error::new(ErrorKind::Unsupported, "folders are not supported yet").file(path);
        return Err(error.way_out("give a .gguf file"));
    }
    if !kind.is_file() {
        return Err(Error::new(ErrorKind::Unsupported, "not a regular file").file(path));
    }
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    Ok((file, bytes))
}

fn digest(file: &File, path: &Path, gguf: &Gguf, file_bytes: u64) -> Result<u64, Error> {
    let mut hash = Xxh3::new();
    hash.update(&gguf.header_digest().to_le_bytes());
    hash.update(&file_bytes.to_le_bytes());
    let stride = gguf.tensors().len().div_ceil(SAMPLES_MAX).max(1);
    let mut sample = [0; SAMPLE_BYTES_MAX];
    for tensor in gguf.tensors().step_by(stride) {
        let bytes = SAMPLE_BYTES_MAX.min(to_usize(tensor.bytes));
        let middle = tensor.offset + (tensor.bytes - bytes as u64) / 2;
        file.read_exact_at(&mut sample[..bytes], middle)
            .map_err(|error| Error::io(path, "read weights", &error).tensor(&tensor.name))?;
        hash.update(&sample[..bytes]);
    }
    Ok(hash.digest())
}

/// For lengths that were checked against a buffer or a bound; on 64-bit targets it is exact.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
