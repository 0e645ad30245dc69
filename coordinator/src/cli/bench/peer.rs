//! The second process of `binfer bench coordinator`: one scripted worker and all the clients.
//!
//! They have a process of their own, so that the CPU time of the first one is the coordinator's
//! alone. After the last answer this process prints how many events its clients saw. It ends when
//! the coordinator tells it to stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use binfer_console as console;
use binfer_proto::cluster::cluster_client::ClusterClient;
use binfer_proto::cluster::{Beat, Down, Hello, Loaded, Ready, Up, down, up};
use binfer_proto::{MESSAGE_BYTES_MAX, PROTOCOL_DIGEST, Plan, Token, VERSION};
use binfer_shard::Checkpoint;
use clap::Args;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStdout;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;

use super::clients;
use super::clients_http2;
use super::script::ScriptedWorker;
use crate::config;
use crate::front::ServeCommand;
use crate::text::TextModel;

const BEAT: Duration = Duration::from_millis(250);

/// Arguments of the peer.
#[derive(Args, Clone, Debug)]
pub(super) struct PeerArgs {
    /// The checkpoint, for its vocabulary
    #[arg(long)]
    pub(super) model: PathBuf,
    /// Where workers dial in
    #[arg(long)]
    pub(super) socket: PathBuf,
    /// Where clients do
    #[arg(long)]
    pub(super) http: SocketAddr,
    /// Number of clients
    #[arg(long)]
    pub(super) streams: u32,
    /// Tokens of each answer
    #[arg(long)]
    pub(super) tokens: u32,
    /// How long a step takes
    #[arg(long)]
    pub(super) step_us: u64,
    /// Clients share a connection of HTTP/2
    #[arg(long)]
    pub(super) http2: bool,
    /// Keep cores without work from sleeping
    #[arg(long)]
    pub(super) keep_awake: bool,
}

/// Answers plans and reads streams until the coordinator stops it.
pub(super) fn run(args: &PeerArgs) -> Result<ExitCode> {
    let die = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(die).context("parent-death signal")?;
    if args.keep_awake {
        (0..config::cores()).for_each(|_| drop(std::thread::spawn(keep_awake)));
    }
    let tokens = printable_tokens(&args.model)?;
    let step = Duration::from_micros(args.step_us);
    let script = ScriptedWorker::new(tokens, step, args.streams as usize);
    let worker = {
        let args = args.clone();
        std::thread::spawn(move || work(&args, script))
    };
    let run = if args.http2 { clients_http2::run } else { clients::run };
    let events = run(args.http, args.streams, args.tokens)?;
    console::print(&format!("{events}\n"))?;
    worker.join().map_err(|_| anyhow!("the scripted worker panicked"))??;
    Ok(ExitCode::SUCCESS)
}

/// Keeps one core busy at the lowest priority, as a worker that computes would. A virtual core that
/// sleeps is given to another guest and comes back with cold caches, and the coordinator would be
/// measured with them.
fn keep_awake() {
    // At normal priority the thread would take time from the measured ones.
    if rustix::process::setpriority_process(None, 19).is_ok() {
        loop {
            std::hint::spin_loop();
        }
    }
}

/// The tokens that are whole characters, each of which becomes an event.
fn printable_tokens(model: &Path) -> Result<Vec<Token>> {
    let source = Checkpoint::open(model)?;
    let text = TextModel::from_source(&source)?;
    let whole = |token: &Token| {
        let piece = text.facts().decode(&[*token]);
        !piece.is_empty() && !piece.contains(char::REPLACEMENT_CHARACTER)
    };
    let tokens: Vec<Token> = (0..source.spec().vocab).filter(whole).collect();
    if tokens.is_empty() {
        bail!("the vocabulary has no token that is a whole character");
    }
    Ok(tokens)
}

/// The worker's side of the link as in `binfer worker`, with a script in place of the engine.
fn work(args: &PeerArgs, script: ScriptedWorker) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(attach(args, script))
}

async fn attach(args: &PeerArgs, script: ScriptedWorker) -> Result<()> {
    // The secret of the cluster comes through stdin, as it does for real workers.
    let instance = std::io::read_to_string(std::io::stdin())?;
    let (up, outgoing) = unbounded_channel();
    let hello = Hello {
        version: VERSION.into(),
        build: PROTOCOL_DIGEST.into(),
        host: "local".into(),
        pid: std::process::id(),
        instance,
        wanted_rank: Some(0),
    };
    send(&up, up::Message::Hello(hello));
    let endpoint = Endpoint::from_shared(format!("unix://{}", args.socket.display()))?;
    let mut incoming = ClusterClient::new(endpoint.connect().await?)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
        .attach(UnboundedReceiverStream::new(outgoing))
        .await?
        .into_inner();
    let (plans, received) = mpsc::channel();
    let results = up.clone();
    std::thread::spawn(move || execute(script, &received, &results));
    let mut beat = tokio::time::interval(BEAT);
    let mut operations = 0;
    loop {
        let message = tokio::select! {
            message = incoming.message() => message,
            _ = beat.tick() => {
                operations += 1;
                send(&up, up::Message::Beat(Beat { operations, ..Beat::default() }));
                continue;
            }
        };
        let Ok(Some(Down { message: Some(message) })) = message else { return Ok(()) };
        match message {
            down::Message::Load(_) => send(&up, up::Message::Loaded(loaded(args))),
            down::Message::Allocate(_) => send(&up, up::Message::Ready(Ready::default())),
            down::Message::Plan(plan) => plans.send(plan)?,
            down::Message::Stop(_) => return Ok(()),
            _ => {}
        }
    }
}

/// More blocks than all answers need.
fn loaded(args: &PeerArgs) -> Loaded {
    let blocks = args.streams.saturating_mul(args.tokens / 32 + 64);
    Loaded { blocks_max: vec![blocks], kv_layout: "script".into(), ..Loaded::default() }
}

/// The engine thread, which answers one step after the other, each at its time.
fn execute(
    mut script: ScriptedWorker,
    plans: &mpsc::Receiver<binfer_proto::cluster::Plan>,
    results: &UnboundedSender<Up>,
) {
    while let Ok(plan) = plans.recv() {
        let Ok(plan) = Plan::try_from(plan) else { return };
        let (result, due) = script.answer(&plan);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        send(results, up::Message::Result((&result).into()));
    }
}

/// Sends a message. A failure is ignored, since a lost link ends the stream of incoming messages.
fn send(up: &UnboundedSender<Up>, message: up::Message) {
    let _ = up.send(Up { message: Some(message) });
}

/// Waits until the peer tells how many events its clients saw, which ends the measurement.
pub(super) async fn read_event_count(
    peer: Option<ChildStdout>,
    commands: tokio::sync::mpsc::Sender<ServeCommand>,
) -> Result<u64> {
    let mut said = String::new();
    let heard = match peer {
        Some(peer) => BufReader::new(peer).read_line(&mut said).await,
        None => Ok(0),
    };
    let _ = commands.send(ServeCommand::Stop).await;
    heard?;
    said.trim().parse().with_context(|| format!("the bench's peer said {said:?}"))
}
