//! `binfer shard`: names of models and a progress bar around the command of `binfer_shard`.

use std::process::ExitCode;

use anyhow::Result;
use binfer_shard::command::Shard;
use clap::Args;

use crate::config;
use crate::launch::LaunchError;
use crate::options::Verbosity;
use crate::report::Report;

/// Arguments of `binfer shard`.
#[derive(Args, Clone, Debug)]
pub struct ShardArgs {
    /// A GGUF file, a Hugging Face folder, or `demo`
    pub model: String,
    /// How to cut it.
    #[command(flatten)]
    pub shard: Shard,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// Cuts, or says what it would cut. Status 78 for settings, files and disks that cannot work.
pub fn run(args: &ShardArgs) -> Result<ExitCode> {
    let verbosity = if args.quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let report = Report::new(verbosity, "sharding");
    let path = config::model_path(&args.model).map_err(LaunchError::from)?;
    let outcome = args.shard.run(&path, |done, total| report.bytes(done, total));
    report.finished();
    print!("{}", outcome.map_err(LaunchError::from)?);
    Ok(ExitCode::SUCCESS)
}
