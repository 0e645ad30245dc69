//! `binfer shard`: the command of `binfer_shard` with names of models, a progress bar and signals.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Result;
use binfer_console as console;
use binfer_shard::command::Shard;
use clap::Args;

use crate::error::LaunchError;
use crate::locate::{describe, locate};
use crate::report::{Report, Verbosity};
use crate::signals;

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

/// Cuts a checkpoint, or lists what it would cut. Settings, files and disks that cannot work are
/// errors of status 78.
pub fn run(args: &ShardArgs) -> Result<ExitCode> {
    let report = Report::new(Verbosity::of(args.quiet, false));
    if args.shard.dry_run {
        // Only headers are fetched from the hub.
        let described = describe(&args.model, args.revision.as_deref())?;
        console::print(&args.shard.listing(&described.spec).map_err(LaunchError::from)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let located = locate(&args.model, args.revision.as_deref(), &report)?;
    let stopped = watch_signals().map_err(LaunchError::from)?;
    let outcome = args.shard.run(&located.path, |done, total| {
        report.sharding(done, total);
        stopped.load(Ordering::Relaxed) == 0
    });
    report.loaded();
    match (outcome, stopped.load(Ordering::Relaxed)) {
        (Ok(text), _) => console::print(&text)?,
        (Err(error), 0) => return Err(LaunchError::from(error).into()),
        (Err(error), status) => {
            console::message(format_args!("binfer: {error}"));
            return Ok(ExitCode::from(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Watches for SIGINT and SIGTERM. The value is 0 until one comes, and then its exit status, so
/// that an unfinished folder can be removed first. A second signal ends the process at once.
fn watch_signals() -> std::io::Result<Arc<AtomicU8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut stops = {
        let _inside = runtime.enter();
        signals::stops()?
    };
    let stopped = Arc::new(AtomicU8::new(0));
    let told = Arc::clone(&stopped);
    let wait = async move {
        loop {
            let status = stops.next().await.exit_status();
            if told.swap(status, Ordering::Relaxed) != 0 {
                std::process::exit(status.into());
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(wait))?;
    Ok(stopped)
}
