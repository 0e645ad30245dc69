//! Command line of `binfer worker`. People rarely type it: the launcher does.

use std::path::PathBuf;

use clap::Args;

/// Flags that ask for no rank.
const PROBES: [&str; 3] = ["probe", "probe_nccl", "probe_cublas"];

/// Arguments of `binfer worker`. The token that proves that this worker belongs to the
/// coordinator's cluster comes through stdin, because everybody on a machine can read arguments.
#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    /// Print a line for each device of this machine, and end
    #[arg(long, exclusive = true)]
    pub probe: bool,
    /// Print a line for NCCL, as it is found in these folders and the system's places, and end
    #[arg(long, exclusive = true, value_name = "DIR", num_args = 0..)]
    pub probe_nccl: Option<Vec<PathBuf>>,
    /// The same for cuBLASLt
    #[arg(long, exclusive = true, value_name = "DIR", num_args = 0..)]
    pub probe_cublas: Option<Vec<PathBuf>>,
    /// Unix socket of the coordinator
    #[arg(long, value_name = "PATH", required_unless_present_any = PROBES, default_value = "")]
    pub attach: String,
    /// Rank that the launcher wants this worker to have
    #[arg(long, required_unless_present_any = PROBES, default_value_t = 0)]
    pub rank: u32,
    /// Process that must stay alive, or this one ends
    #[arg(long, value_name = "PID", required_unless_present_any = PROBES, default_value_t = 0)]
    pub parent: i32,
}
