//! `binfer bench`: how fast a model runs here, and what the coordinator costs.
//!
//! `binfer bench MODEL` measures the real cluster end to end. `binfer bench coordinator` measures
//! the coordinator alone against workers that compute nothing. Every figure is a median of repeated
//! runs with its extremes. Single kernels are measured by `kernels/bench`.

mod clients;
mod clients_http2;
mod coordinator;
mod model;
mod peer;
mod samples;
mod script;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::config::ConfigError;
use crate::error::LaunchError;
use crate::model_args::ModelArgs;

/// Arguments of `binfer bench`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    #[command(flatten)]
    model: Option<ModelArgs>,
    #[command(flatten)]
    load: model::LoadArgs,
    #[command(subcommand)]
    command: Option<BenchCommand>,
}

#[derive(Subcommand, Clone, Debug)]
enum BenchCommand {
    /// The coordinator's CPU time per step, with workers that compute nothing
    Coordinator(coordinator::CoordinatorBench),
    /// Workers and clients of `bench coordinator`, which starts this itself
    #[command(hide = true)]
    Peer(peer::PeerArgs),
}

/// Measures and prints a table.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    match (&args.command, &args.model) {
        (Some(BenchCommand::Coordinator(bench)), _) => coordinator::run(bench),
        (Some(BenchCommand::Peer(peer)), _) => peer::run(peer),
        (None, Some(model)) => model::run(model, &args.load),
        (None, None) => Err(LaunchError::Config(ConfigError("MODEL is missing".into())).into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    #[test]
    fn a_model_or_the_coordinator() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.bench);
        assert!(parse("bench demo").unwrap().model.is_some());
        assert!(parse("bench demo --batch 1 --tp 2 -q").unwrap().model.is_some());
        let command = parse("bench coordinator demo --streams 64").unwrap().command;
        assert!(matches!(command, Some(BenchCommand::Coordinator(_))));
        assert!(parse("bench --batch 1").is_err());
        assert!(parse("bench demo coordinator").is_err());
    }
}
