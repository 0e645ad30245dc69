//! The command that `binfer shard` and `shard-tool` share. Each finds the model's path and shows
//! progress in its own way.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;

use crate::{Checkpoint, Error, LocalTensor, ModelSpec, describe, layouts, local_tensors, shards};

/// The flags of `binfer shard` and `shard-tool`.
#[derive(Args, Clone, Debug)]
pub struct Shard {
    /// Folder of the shards; it must not be there yet, unless to verify it
    #[arg(short, long, value_name = "DIR", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// Ranks to cut for
    #[arg(long, value_name = "N", required_unless_present = "verify")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub tp: Option<u32>,
    /// Write nothing: print what each rank would hold, out of headers, or config.json alone
    #[arg(long, conflicts_with = "verify")]
    pub dry_run: bool,
    /// Write nothing: compare the shards in DIR with MODEL, every byte of both
    #[arg(long, conflicts_with = "tp")]
    pub verify: bool,
}

impl Shard {
    /// Runs the command and returns the text for stdout. `progress` is told how many bytes were
    /// read and how many there are. If it returns false, the command ends.
    ///
    /// # Errors
    /// Those of opening, sharding and writing.
    pub fn run(
        &self,
        model: &Path,
        mut progress: impl FnMut(u64, u64) -> bool,
    ) -> Result<String, Error> {
        if self.dry_run {
            return self.listing(&describe(model)?.spec);
        }
        // The parser has checked that the flags which are needed are there.
        let (world, out) = (self.tp.unwrap_or(1), self.output.as_deref().unwrap_or(model));
        let source = Checkpoint::open(model)?;
        let (began, bytes) = (Instant::now(), source.spec().weight_bytes());
        let progress = |done| progress(done, bytes);
        let (world, done) = if self.verify {
            (shards::verify(&source, out, progress)?, "verified")
        } else {
            shards::write(&source, world, out, progress)?;
            (world, "written")
        };
        let (seconds, megabytes) = (began.elapsed().as_secs_f64(), bytes as f64 / 1e6);
        let (speed, out) = (megabytes / seconds.max(1e-9), out.display());
        Ok(format!(
            "{out}: {world} rank(s) {done}, {megabytes:.0} MB in {seconds:.2} s, {speed:.0} MB/s\n"
        ))
    }

    /// Lists what each rank would hold of a model, one line for each part of a tensor.
    ///
    /// # Errors
    /// `Layout` if the model cannot be cut for that number of ranks.
    pub fn listing(&self, spec: &ModelSpec) -> Result<String, Error> {
        let world = self.tp.unwrap_or(1);
        let mut text = String::new();
        for layout in layouts(spec, world)? {
            let tensors = local_tensors(spec, &layout)?;
            let bytes: u64 = tensors.iter().map(LocalTensor::bytes).sum();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "rank {} of {world}: {bytes} bytes", layout.rank);
            for tensor in &tensors {
                for part in &tensor.parts {
                    let (rows, cols, bytes) = (part.rows, part.cols, part.bytes());
                    let (name, dtype) = (&part.source, part.dtype.name());
                    let _ = writeln!(text, "  {name} {dtype} [{rows}, {cols}] {bytes} bytes");
                }
            }
        }
        Ok(text)
    }
}
