//! Worker processes: started, waited for and killed.
//!
//! Each is a child in its own process group, so Ctrl-C reaches the coordinator alone. The child
//! asks the kernel to be killed when the thread that started it ends. That thread must therefore
//! live as long as the process.

use std::io::{self, Write};
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::error::FleetError;
use super::server::FleetEvent;
use crate::config::API_KEY_VARIABLE;

/// A started worker. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) pid: u32,
    kill: Option<oneshot::Sender<()>>,
}

/// What the workers of a fleet are started with.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerProgram<'a> {
    pub(super) path: &'a Path,
    pub(super) socket: &'a Path,
    pub(super) instance: &'a str,
    /// Several ranks share a GPU.
    pub(super) shares_gpu: bool,
}

impl Worker {
    /// Starts the worker of `rank`. Its end is sent to `events`.
    pub(super) fn start(
        program: WorkerProgram<'_>,
        rank: usize,
        events: UnboundedSender<FleetEvent>,
    ) -> Result<Self, FleetError> {
        let cannot_start =
            |error: io::Error| FleetError::worker(rank, format!("cannot start: {error}"));
        let token = through_pipe(program.instance).map_err(cannot_start)?;
        let mut command = Command::new(program.path);
        if program.shares_gpu {
            // NCCL refuses a second rank on a GPU unless the ranks look like different hosts.
            command.env("NCCL_HOSTID", format!("{}-{rank}", program.instance));
            command.env("NCCL_SOCKET_IFNAME", "lo");
        }
        let child = command
            .arg("worker")
            .arg("--attach")
            .arg(program.socket)
            .args(["--rank", &rank.to_string()])
            .args(["--parent", &std::process::id().to_string()])
            // Every token reads all weights. Huge pages save misses of the TLB, which makes
            // decoding a fifth faster.
            .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
            .env_remove(API_KEY_VARIABLE)
            .stdin(token)
            .stdout(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot_start)?;
        let pid = child.id().unwrap_or(0);
        let (kill, killed) = oneshot::channel();
        tokio::spawn(async move {
            let status = reap(child, killed).await;
            let _ = events.send(FleetEvent::Exited { rank, status });
        });
        Ok(Self { pid, kill: Some(kill) })
    }

    /// Kills the process. Its end is still reported.
    pub(super) fn kill(&mut self) {
        self.kill.take();
    }
}

/// A child's stdin that holds a secret. Unlike arguments, no other process can see it. `secret`
/// must be shorter than what a pipe holds.
pub fn through_pipe(secret: &str) -> io::Result<Stdio> {
    let (read, mut write) = io::pipe()?;
    write.write_all(secret.as_bytes())?;
    Ok(read.into())
}

/// Waits for the child, and kills it when the sender of `killed` is dropped.
async fn reap(mut child: Child, killed: oneshot::Receiver<()>) -> std::io::Result<ExitStatus> {
    tokio::select! {
        status = child.wait() => return status,
        _ = killed => {}
    }
    child.kill().await?;
    child.wait().await
}

/// The signal that ended the process, if one did.
pub(super) fn signal(status: &std::io::Result<ExitStatus>) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    status.as_ref().ok()?.signal()
}

/// How the process ended: "was killed by signal 9", or "ended with status 70".
pub(super) fn describe(status: &std::io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => format!("was killed by signal {signal}"),
            (None, code) => format!("ended with status {}", code.unwrap_or(-1)),
        },
        Err(error) => format!("cannot be waited for: {error}"),
    }
}
