//! Command line of `binfer worker`. People rarely type it: the launcher does.

use clap::Args;

/// Arguments of `binfer worker`.
#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    /// Unix socket of the coordinator
    #[arg(long, value_name = "PATH")]
    pub attach: String,
    /// Rank that the launcher wants this worker to have
    #[arg(long)]
    pub rank: u32,
    /// Token that proves that this worker belongs to the coordinator's cluster
    #[arg(long)]
    pub instance: String,
    /// Process that must stay alive, or this one ends
    #[arg(long, value_name = "PID")]
    pub parent: i32,
}
