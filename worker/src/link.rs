//! A worker's connection to its coordinator: one gRPC stream for life.
//!
//! The main thread runs this on a current-thread runtime: it forwards what comes down to the engine
//! thread, sends heartbeats, and ends the process when the coordinator says so or is gone. It
//! never executes, so it can always answer. Deliberately absent: anything about models.

use std::io::Read;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use binfer_proto::cluster::cluster_client::ClusterClient;
use binfer_proto::cluster::{Beat, Down, Failed, Hello, Up, down, up};
use binfer_proto::{MESSAGE_BYTES_MAX, PROTOCOL_DIGEST, VERSION};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::args::WorkerArgs;
use crate::backend::{Abort, cuda};
use crate::progress::Progress;
use crate::{devices, setup};

/// How often a heartbeat goes up.
const BEAT: Duration = Duration::from_millis(250);
/// How long the engine may take to end by itself, with what it measured, before it is given up.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How long a coordinator that does not answer may take to end.
const GOING_DOWN: Duration = Duration::from_secs(1);
/// The longest token that is read.
const INSTANCE_BYTES_MAX: u64 = 256;
/// Exit status after an error of the engine: a supervisor may restart.
const EXIT_FAILED: u8 = 70;

/// The engine thread's side of the link.
pub struct EnginePort {
    /// What came down.
    pub down: mpsc::Receiver<down::Message>,
    /// What goes up.
    pub up: UnboundedSender<Up>,
    /// Where the engine is.
    pub progress: Arc<Progress>,
    /// Filled once there is a communicator to give up.
    pub abort: Arc<Mutex<Option<Abort>>>,
}

impl EnginePort {
    /// Sends a message up; a closed link ends the process anyway.
    pub fn send(&self, message: up::Message) {
        let _ = self.up.send(Up { message: Some(message) });
    }

    /// Passes an outcome on; a failure is told the coordinator first, with where the engine was.
    pub fn told<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            self.send(failed(&self.progress, format!("{error:#}")));
        }
        outcome
    }
}

/// Runs a worker until its coordinator ends it.
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
    runtime.block_on(attach(args, instance))
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

async fn attach(args: &WorkerArgs, instance: String) -> Result<ExitCode> {
    let (up, outgoing) = unbounded_channel();
    up.send(Up { message: Some(up::Message::Hello(hello(args.rank, instance))) })?;
    match dial(&args.attach, outgoing).await {
        Ok(incoming) => serve(incoming, up).await,
        Err(error) => {
            // A coordinator that is going down has said why, and takes this process along before
            // the wait is over.
            tokio::time::sleep(GOING_DOWN).await;
            Err(error)
        }
    }
}

async fn dial(address: &str, outgoing: UnboundedReceiver<Up>) -> Result<Streaming<Down>> {
    let channel = Endpoint::from_shared(format!("unix://{address}"))?
        .connect()
        .await
        .with_context(|| format!("worker: cannot reach the coordinator at {address}"))?;
    let incoming = ClusterClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
        .attach(UnboundedReceiverStream::new(outgoing))
        .await
        .context("worker: the coordinator refused this worker")?;
    Ok(incoming.into_inner())
}

fn hello(rank: u32, instance: String) -> Hello {
    Hello {
        version: VERSION.into(),
        build: PROTOCOL_DIGEST.into(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pid: std::process::id(),
        instance,
        wanted_rank: Some(rank),
    }
}

/// Forwards until the stream ends, the coordinator says stop, or the engine is over.
async fn serve(mut incoming: Streaming<Down>, up: UnboundedSender<Up>) -> Result<ExitCode> {
    let progress = Arc::new(Progress::default());
    let abort = Arc::new(Mutex::new(None));
    let (down, port_down) = mpsc::channel();
    let (over, mut engine_over) = oneshot::channel();
    let port = EnginePort {
        down: port_down,
        up: up.clone(),
        progress: Arc::clone(&progress),
        abort: Arc::clone(&abort),
    };
    std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || {
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| setup::run(&port)));
            let untold = match outcome {
                Ok(Ok(())) => Some("the engine ended"),
                Ok(Err(_)) => None,
                Err(_) => Some("the engine panicked"),
            };
            let _ = over.send(untold);
        })
        .context("worker: cannot start the engine thread")?;
    let mut beat = tokio::time::interval(BEAT);
    // Its own process group keeps Ctrl-C away; a group-wide kill -INT is the coordinator's to act on.
    let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let code = loop {
        tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(Down { message: Some(down::Message::Stop(_)) })) | Ok(None) => break ExitCode::SUCCESS,
                Ok(Some(Down { message: Some(message) })) => { let _ = down.send(message); }
                Ok(Some(Down { message: None })) => {}
                Err(_) => break ExitCode::from(EXIT_FAILED),
            },
            untold = &mut engine_over => {
                if let Some(cause) = untold.unwrap_or(Some("the engine thread is gone")) {
                    let _ = up.send(Up { message: Some(failed(&progress, cause.into())) });
                }
                // The report is on its way: the coordinator answers it with Stop, or closes.
                let _ = tokio::time::timeout(Duration::from_secs(2), incoming.message()).await;
                break ExitCode::from(EXIT_FAILED);
            }
            _ = beat.tick() => send_beat(&progress, &up),
            _ = interrupts.recv() => {}
        }
    };
    drop(down);
    if code == ExitCode::SUCCESS {
        let _ = tokio::time::timeout(LAST_WORDS, engine_over).await;
    }
    if let Some(abort) = abort.lock().ok().and_then(|mut abort| abort.take()) {
        abort();
    }
    Ok(code)
}

fn send_beat(progress: &Progress, up: &UnboundedSender<Up>) {
    let at = progress.snapshot();
    let beat = Beat {
        step_launched: at.step_launched,
        step_finished: at.step_finished,
        operation: at.operation(),
        operations: at.operations,
    };
    let _ = up.send(Up { message: Some(up::Message::Beat(beat)) });
}

fn failed(progress: &Progress, cause: String) -> up::Message {
    let at = progress.snapshot();
    up::Message::Failed(Failed { operation: at.operation(), step: at.step_launched, cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Operation;

    #[test]
    fn a_failure_is_told_with_step_and_operation_and_a_success_is_not() {
        let (up, mut told) = unbounded_channel();
        let progress = Arc::new(Progress::default());
        let (down, abort) = (mpsc::channel().1, Arc::default());
        let port = EnginePort { down, up, progress: Arc::clone(&progress), abort };
        assert_eq!(port.told(Ok(3)).unwrap(), 3);
        assert!(told.try_recv().is_err());
        progress.launched(9);
        progress.enter(Operation::Down, Some(2));
        let error = anyhow::anyhow!("out of memory").context("step 9");
        assert!(port.told::<()>(Err(error)).is_err());
        let Ok(Up { message: Some(up::Message::Failed(failed)) }) = told.try_recv() else {
            panic!("nothing was told");
        };
        assert_eq!((failed.step, failed.operation.as_str()), (9, "layers.2.ffn.down"));
        assert_eq!(failed.cause, "step 9: out of memory");
    }
}
