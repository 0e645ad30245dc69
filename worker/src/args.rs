//! Command line of `binfer worker`. People rarely type it: the launcher does.

use clap::Args;

/// Arguments of `binfer worker`.
#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    /// Print a line for each device of this machine, and end
    #[arg(long, exclusive = true)]
    pub probe: bool,
    /// Unix socket of the coordinator
    #[arg(long, value_name = "PATH", required_unless_present = "probe", default_value = "")]
    pub attach: String,
    /// Rank that the launcher wants this worker to have
    #[arg(long, required_unless_present = "probe", default_value_t = 0)]
    pub rank: u32,
    /// Token that proves that this worker belongs to the coordinator's cluster
    #[arg(long, required_unless_present = "probe", default_value = "")]
    pub instance: String,
    /// Process that must stay alive, or this one ends
    #[arg(long, value_name = "PID", required_unless_present = "probe", default_value_t = 0)]
    pub parent: i32,
}
