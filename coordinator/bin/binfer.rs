//! The program `binfer`: dispatches to a command and decides the exit status.

use std::process::ExitCode;

use anyhow::Result;
use binfer_console as console;
use binfer_coordinator::cli::{self, exit, tips};
use binfer_coordinator::{signals, text};
use clap::{CommandFactory, Parser, Subcommand};

/// Serves large language models from Hugging Face folders and GGUF files
#[derive(Parser, Debug)]
#[command(name = "binfer", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Answer one prompt
    Run(cli::run::RunArgs),
    /// Serve the OpenAI API
    Serve(cli::serve::ServeArgs),
    /// Say what a model takes on given cards, before anything is loaded or downloaded
    Plan(cli::plan::PlanArgs),
    /// Fetch a model from the Hugging Face hub
    Pull(cli::pull::PullArgs),
    /// Look at this machine: devices, drivers, libraries, and what is missing
    Doctor(cli::doctor::DoctorArgs),
    /// Measure how fast a model runs, or what the coordinator costs
    Bench(Box<cli::bench::BenchArgs>),
    /// Cut a checkpoint into one file a rank, which `serve` and `run` then load
    Shard(cli::shard::ShardArgs),
    /// Run one rank; the other commands start it
    #[command(hide = true)]
    Worker(binfer_worker::args::WorkerArgs),
    /// Make text into tokens; the other commands start it
    #[command(hide = true)]
    Text(text::process::TextArgs),
}

fn main() -> ExitCode {
    console::init();
    let outcome = match Cli::try_parse() {
        Ok(cli) => dispatch(cli.command),
        Err(shown) => {
            let args = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
            let args: Vec<String> = args.collect();
            show(&tips::improved(shown, &Cli::command(), &args))
        }
    };
    outcome.unwrap_or_else(|error| {
        if !exit::is_silent(&error) {
            console::message(format_args!("binfer: {error:#}"));
        }
        ExitCode::from(exit::status(&error))
    })
}

/// Shows the parser's text: help and version on stdout, what is wrong with the flags on stderr.
fn show(shown: &clap::Error) -> Result<ExitCode> {
    let text = shown.render().to_string();
    if shown.use_stderr() {
        console::lines(&text);
        return Ok(ExitCode::from(exit::USAGE));
    }
    console::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn dispatch(command: Command) -> Result<ExitCode> {
    if !matches!(command, Command::Worker(_) | Command::Text(_)) {
        signals::end_at_once()?;
    }
    match command {
        Command::Run(args) => cli::run::run(&args),
        Command::Serve(args) => cli::serve::run(&args),
        Command::Plan(args) => cli::plan::run(&args),
        Command::Pull(args) => cli::pull::run(&args),
        Command::Doctor(args) => cli::doctor::run(&args),
        Command::Bench(args) => cli::bench::run(&args),
        Command::Shard(args) => cli::shard::run(&args),
        Command::Worker(args) => binfer_worker::run::run(&args),
        Command::Text(args) => text::process::run(&args),
    }
}
