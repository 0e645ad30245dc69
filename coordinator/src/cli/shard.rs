//! `binfer shard`: names of models and a progress bar around the command of `binfer_shard`.

use std::process::ExitCode;

use anyhow::Result;
use binfer_shard::command::Shard;
use clap::Args;

use crate::launch::LaunchError;
use crate::locate::{describe, locate};
use crate::options::Verbosity;
use crate::report::Report;

/// Arguments of `binfer shard`.
#[derive(Args, Clone, Debug)]
pub struct ShardArgs {
    /// A GGUF file, a Hugging Face folder, an id on the hub (ORG/NAME), or `demo`
    pub model: String,
    /// Branch, tag or commit of an id on the hub [default: main]
    #[arg(long)]
    pub revision: Option<String>,
    /// How to cut it.
    #[command(flatten)]
    pub shard: Shard,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// Cuts, or says what it would cut. Status 78 for settings, files and disks that cannot work.
pub fn run(args: &ShardArgs) -> Result<ExitCode> {
    let report = Report::new(Verbosity::of(args.quiet, false));
    if args.shard.dry_run {
        // Of what is on the hub only headers are fetched.
        let described = describe(&args.model, args.revision.as_deref())?;
        print!("{}", args.shard.listing(&described.spec).map_err(LaunchError::from)?);
        return Ok(ExitCode::SUCCESS);
    }
    let located = locate(&args.model, args.revision.as_deref(), &report)?;
    let outcome = args.shard.run(&located.path, |done, total| report.sharding(done, total));
    report.loaded();
    print!("{}", outcome.map_err(LaunchError::from)?);
    Ok(ExitCode::SUCCESS)
}
