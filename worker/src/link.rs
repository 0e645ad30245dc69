//! A worker's connection to its coordinator: one gRPC stream for life.
//!
//! The main thread runs this on a current-thread runtime. It forwards what comes down to the engine
//! thread, sends heartbeats, and ends the process when the coordinator says so or is gone. It never
//! executes a step, so it can always answer.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};
use binfer_proto::cluster::cluster_client::ClusterClient;
use binfer_proto::cluster::{Beat, Down, Hello, Up, down, up};
use binfer_proto::{MESSAGE_BYTES_MAX, PROTOCOL_DIGEST, VERSION};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::args::WorkerArgs;
use crate::engine_loop;
use crate::port::{EnginePort, failed};
use crate::progress::StepProgress;

/// How often a heartbeat goes up.
const BEAT: Duration = Duration::from_millis(250);
/// How long the engine may take to end by itself, with what it measured, before it is given up.
const ENGINE_EXIT_GRACE: Duration = Duration::from_millis(300);
/// How long a coordinator that does not answer may take to end.
const COORDINATOR_EXIT_GRACE: Duration = Duration::from_secs(1);
/// Exit status after an error of the engine: a supervisor may restart.
const EXIT_FAILED: u8 = 70;

/// Dials the coordinator and serves the link until the coordinator ends this worker.
pub async fn attach(args: &WorkerArgs, instance: String) -> Result<ExitCode> {
    let (up, outgoing) = unbounded_channel();
    up.send(Up { message: Some(up::Message::Hello(hello(args.rank, instance))) })?;
    match dial(&args.attach, outgoing).await {
        Ok(incoming) => serve(incoming, up).await,
        Err(error) => {
            // A coordinator that is going down has said why, and takes this process along before
            // the wait is over.
            tokio::time::sleep(COORDINATOR_EXIT_GRACE).await;
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
    let progress = Arc::new(StepProgress::default());
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
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine_loop::run(&port)));
            let unreported = match outcome {
                Ok(Ok(())) => Some("the engine ended"),
                Ok(Err(_)) => None,
                Err(_) => Some("the engine panicked"),
            };
            let _ = over.send(unreported);
        })
        .context("worker: cannot start the engine thread")?;
    let mut beat = tokio::time::interval(BEAT);
    // A process group of its own keeps Ctrl-C away. The coordinator acts on a `kill -INT` of all.
    let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let code = loop {
        tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(Down { message: Some(down::Message::Stop(_)) })) | Ok(None) => {
                    break ExitCode::SUCCESS;
                }
                Ok(Some(Down { message: Some(message) })) => { let _ = down.send(message); }
                Ok(Some(Down { message: None })) => {}
                Err(_) => break ExitCode::from(EXIT_FAILED),
            },
            unreported = &mut engine_over => {
                if let Some(cause) = unreported.unwrap_or(Some("the engine thread is gone")) {
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
        let _ = tokio::time::timeout(ENGINE_EXIT_GRACE, engine_over).await;
    }
    if let Some(abort) = abort.lock().ok().and_then(|mut abort| abort.take()) {
        abort();
    }
    Ok(code)
}

fn send_beat(progress: &StepProgress, up: &UnboundedSender<Up>) {
    let at = progress.snapshot();
    let beat = Beat {
        step_launched: at.step_launched,
        step_finished: at.step_finished,
        operation: at.operation(),
        operations: at.operations,
    };
    let _ = up.send(Up { message: Some(up::Message::Beat(beat)) });
}
