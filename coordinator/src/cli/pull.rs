//! `binfer pull`: fetches a model from the Hugging Face hub into the cache and prints where it is.

use std::process::ExitCode;

use anyhow::Result;
use binfer_console as console;
use binfer_shard::hub::Hub;
use clap::Args;

use crate::config;
use crate::error::LaunchError;
use crate::locate::hub_id;
use crate::report::{Report, Verbosity};

/// Arguments of `binfer pull`.
#[derive(Args, Clone, Debug)]
pub struct PullArgs {
    /// ORG/NAME on the hub; one of several GGUF files as ORG/NAME:FILE or ORG/NAME:Q4_K_M
    pub model: String,
    /// Branch, tag or commit [default: main]
    #[arg(long)]
    pub revision: Option<String>,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// What the command cannot pull, for messages.
const PULLED: &str = "no id on the hub (ORG/NAME, or ORG/NAME:FILE for one of several GGUF files)";

/// Fetches the model. The hub is asked even if the cache has the model, since it may have a newer
/// one.
pub fn run(args: &PullArgs) -> Result<ExitCode> {
    let report = Report::new(Verbosity::of(args.quiet, false));
    let id = hub_id(&args.model, args.revision.as_deref(), PULLED)?;
    let hub = Hub::new(&config::hub_settings().map_err(LaunchError::Config)?);
    let pulled = hub.and_then(|hub| hub.pull(&id, &|event| report.downloading(event)));
    report.loaded();
    console::print(&format!("{}\n", pulled.map_err(LaunchError::Hub)?.display()))?;
    Ok(ExitCode::SUCCESS)
}
