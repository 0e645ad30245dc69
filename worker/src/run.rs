//! Entry of `binfer worker`: a probe of the machine, or one rank of a coordinator's cluster.

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::args::WorkerArgs;
use crate::backend::cuda;
use crate::{devices, link};

/// The longest instance token that is read.
const INSTANCE_BYTES_MAX: u64 = 256;

/// Does what the command line asks for. A rank runs until its coordinator ends it.
pub fn run(args: &WorkerArgs) -> Result<ExitCode> {
    if args.probe {
        return devices::print();
    }
    if let Some(folders) = &args.probe_nccl {
        return devices::print_library("nccl", cuda::nccl_version(folders));
    }
    if let Some(folders) = &args.probe_cublas {
        return devices::print_library("cublas", cuda::cublas_version(folders));
    }
    die_with_parent(args.parent)?;
    let instance = read_instance().context("worker: the token on stdin cannot be read")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("worker: cannot start the runtime")?;
    runtime.block_on(link::attach(args, instance))
}

/// Workers that a launcher started end with it, even when it is killed.
fn die_with_parent(parent: i32) -> Result<()> {
    use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL)).context("worker: parent-death signal")?;
    // The parent may have died before the line above took effect.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(parent) {
        bail!("worker: process {parent}, which started this worker, is gone");
    }
    Ok(())
}

fn read_instance() -> std::io::Result<String> {
    std::io::read_to_string(std::io::stdin().take(INSTANCE_BYTES_MAX))
}
