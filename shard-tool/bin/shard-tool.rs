//! `shard-tool`: `binfer shard` by itself, for machines that only prepare checkpoints.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Cuts a checkpoint into one safetensors file a rank
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// A GGUF file or a Hugging Face folder
    model: PathBuf,
    #[command(flatten)]
    shard: binfer_shard::command::Shard,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.shard.run(&cli.model, |_, _| true) {
        Ok(text) => print!("{text}"),
        Err(error) => {
            eprintln!("shard-tool: {error}");
            return ExitCode::from(78);
        }
    }
    ExitCode::SUCCESS
}
