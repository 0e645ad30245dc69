//! `binfer bench`: how fast a model runs here, and what the coordinator costs.
//!
//! `binfer bench MODEL` measures the real cluster end to end; `binfer bench coordinator` measures
//! the coordinator alone against workers that compute nothing. Every figure is a median of repeated
//! runs with its extremes. Deliberately absent: kernels by themselves, which are the worker's.

mod clients;
mod coordinator;
mod model;
mod peer;
mod samples;
mod script;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Arguments of `binfer bench`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    #[command(flatten)]
    model: Option<model::ModelBench>,
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
        (None, Some(bench)) => model::run(bench),
        (None, None) => anyhow::bail!("MODEL is missing"),
    }
}
