//! The file of `--trace`: every operation of every step, as the Trace Event Format has it.
//!
//! Chrome's `about:tracing` and <https://ui.perfetto.dev> show it. A file that lacks its last
//! bracket, because the process was killed, is one they read too.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use binfer_shard::files::overwrite;

use super::cost::{Counts, TimedOperation};
use super::profile::kernels;

/// The file of `--trace` under way.
pub(super) struct Trace {
    file: BufWriter<File>,
    /// The file's path, for messages.
    path: PathBuf,
    rank: u32,
    /// Time of the first stamp: the file's zero.
    zero_ns: Option<u64>,
}

impl Trace {
    pub(super) fn create(path: &Path, rank: u32) -> io::Result<Self> {
        let file = overwrite(path).map_err(|error| naming(path, &error))?;
        let mut trace =
            Self { file: BufWriter::new(file), path: path.to_owned(), rank, zero_ns: None };
        write!(trace.file, "[").map_err(|error| naming(path, &error))?;
        Ok(trace)
    }

    /// Writes a step and its operations; `stamps_ns` as [`super::profile::Profile::add`] has them.
    pub(super) fn add(
        &mut self,
        step: u64,
        operations: &[TimedOperation],
        counts: &Counts,
        stamps_ns: &[u64],
    ) -> io::Result<()> {
        let written = self.write(step, operations, counts, stamps_ns);
        written.map_err(|error| naming(&self.path, &error))
    }

    fn write(
        &mut self,
        step: u64,
        operations: &[TimedOperation],
        counts: &Counts,
        stamps_ns: &[u64],
    ) -> io::Result<()> {
        let (Some(begin), Some(end)) = (stamps_ns.first(), stamps_ns.last()) else { return Ok(()) };
        let separator = if self.zero_ns.is_some() { "," } else { "" };
        writeln!(self.file, "{separator}")?;
        let Counts { tokens, outputs, .. } = counts;
        let name = format!("step {step}: {tokens} tokens, {outputs} outputs");
        self.event(&name, (*begin, *end), None)?;
        for (operation, times) in operations.iter().zip(stamps_ns.windows(2)) {
            writeln!(self.file, ",")?;
            let launched = kernels(operation);
            self.event(&operation.name, (times[0], times[1]), Some(&launched))?;
        }
        Ok(())
    }

    /// Names here are our own and need no escapes.
    fn event(
        &mut self,
        name: &str,
        (begin, end): (u64, u64),
        kernels: Option<&str>,
    ) -> io::Result<()> {
        let zero = *self.zero_ns.get_or_insert(begin);
        let us = |ns: u64| ns as f64 / 1e3;
        write!(
            self.file,
            "{{\"name\":\"{name}\",\"ph\":\"X\",\"ts\":{:.3},\"dur\":{:.3},\"pid\":{},\"tid\":0",
            us(begin.saturating_sub(zero)),
            us(end.saturating_sub(begin)),
            self.rank
        )?;
        if let Some(kernels) = kernels {
            write!(self.file, ",\"args\":{{\"kernels\":\"{kernels}\"}}")?;
        }
        write!(self.file, "}}")
    }

    /// Closes the list.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let ended = write!(self.file, "\n]\n").and_then(|()| self.file.flush());
        ended.map_err(|error| naming(&self.path, &error))
    }
}

/// The error with the path of the file in front.
fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
