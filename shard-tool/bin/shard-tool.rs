//! `shard-tool`: `binfer shard` as a program of its own, for machines that only prepare
//! checkpoints.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use binfer_console::{self as console, StdoutError};
use clap::Parser;

/// Cuts a checkpoint into one safetensors file a rank
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A GGUF file or a Hugging Face folder
    model: PathBuf,
    #[command(flatten)]
    shard: binfer_shard::command::Shard,
}

fn main() -> ExitCode {
    console::init();
    let arguments = Arguments::parse();
    let fail = |error: &dyn Display, status| {
        console::message(format_args!("shard-tool: {error}"));
        ExitCode::from(status)
    };
    match arguments.shard.run(&arguments.model, |_, _| true).as_deref().map(console::print) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(StdoutError::Unread)) => ExitCode::from(StdoutError::Unread.exit_status()),
        Ok(Err(error)) => fail(&error, error.exit_status()),
        Err(error) => fail(error, 78),
    }
}
