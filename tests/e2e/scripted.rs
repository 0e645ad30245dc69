//! A coordinator in this process, with a real socket on each side, over workers that compute
//! nothing: they say what a test wants them to say.
//!
//! The workers dial in as real ones do (`Spawn::Elsewhere`); scheduler, serve loop, fleet and HTTP
//! front are the product's. Deliberately absent: processes, and a model (only its vocabulary).

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use binfer_coordinator::config::SocketFolder;
use binfer_coordinator::fleet::{Fleet, FleetConfig, FleetError, LoadConfig, Rendezvous, Spawn};
use binfer_coordinator::front::{
    self, Core, CoreLimits, CoreParts, Load, ModelInfo, Outbox, Readers, Readiness, ServeCommand,
    UNREAD_BYTES_MAX,
};
use binfer_coordinator::http;
use binfer_coordinator::load_meter::LoadMeter;
use binfer_coordinator::metrics::{Metrics, RequestMeter};
use binfer_coordinator::sched::{KvGroupConfig, SchedConfig, Scheduler};
use binfer_coordinator::serve::ServeLoop;
use binfer_coordinator::text::process::{Deadlines, TextConfig, TextProcess, TextSource};
use binfer_coordinator::text::{ReasoningFormat, TextFacts, TextStage};
use binfer_coordinator::timing::Timing;
use binfer_proto::cluster::cluster_client::ClusterClient;
use binfer_proto::cluster::{Beat, CommId, Down, Hello, Loaded, Ready, Up, down, up};
use binfer_proto::{
    Epoch, KvDtype, Outputs, PROTOCOL_DIGEST, Plan, Rank, ReplicaId, Row, RowResult, RowStatus,
    Rows, StepResult, VERSION, expand_rows,
};
use binfer_shard::Checkpoint;
use binfer_shard::fit::KvBudget;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::harness::{Client, PATIENCE, model_path};

const BLOCKS: u32 = 64;
const BLOCK_TOKENS: u32 = 16;

/// What a rank does to its honest result of a plan before it sends it; none for silence.
pub(crate) type Script = fn(&Plan, StepResult) -> Option<StepResult>;

/// How the cluster is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup<'a> {
    /// One per rank.
    pub(crate) scripts: &'a [Script],
    /// Sequences at once.
    pub(crate) slots_max: u32,
    /// Requests that may wait.
    pub(crate) queue_max: usize,
}

/// A cluster that runs until it is told to stop, or is lost.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    commands: mpsc::Sender<ServeCommand>,
    served: JoinHandle<Result<(), FleetError>>,
    close: oneshot::Sender<()>,
    front: JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
}

/// Says what it should.
pub(crate) fn honest(_: &Plan, result: StepResult) -> Option<StepResult> {
    Some(result)
}

/// Never answers.
pub(crate) fn silent(_: &Plan, _: StepResult) -> Option<StepResult> {
    None
}

impl Cluster {
    /// Starts a cluster and waits until it is ready.
    pub(crate) fn start(setup: Setup<'_>) -> Self {
        let source = Checkpoint::open(model_path()).unwrap();
        let text = Arc::new(text_process(&source));
        let facts = Arc::clone(text.facts());
        let (commands, commands_out) = mpsc::channel(64);
        let (readiness, readiness_out) = watch::channel(Readiness::Starting("a test".into()));
        let outbox = Arc::new(Outbox::default());
        let (load, load_out) = watch::channel(Load::default());
        let metrics = Arc::new(Metrics::new("scripted"));
        let core = Core::new(CoreParts {
            commands: commands.clone(),
            model: Arc::new(model_info(&facts, source.spec().vocab)),
            text,
            readiness: readiness_out,
            load: load_out,
            metrics: Arc::clone(&metrics),
            outbox: Arc::clone(&outbox),
            limits: CoreLimits::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client { address: listener.local_addr().unwrap(), timeout: PATIENCE };
        let (close, closing) = oneshot::channel();
        let front = std::thread::spawn(move || {
            let closing = async { drop(closing.await) };
            let serving = http::serve(listener, core.clone(), http::HttpConfig::default(), closing);
            front::thread::run(&core, serving).unwrap().unwrap();
        });

        let rendezvous = rendezvous();
        let fleet_config = fleet_config(setup.scripts.len());
        let (attach, ready) = std_mpsc::channel();
        let workers = start_ranks(setup.scripts, &rendezvous);
        let load = LoadMeter::new(&sched_config(setup), load, Arc::clone(&metrics));
        let requests = RequestMeter::new(metrics);
        let sched = Scheduler::new(sched_config(setup)).unwrap();
        let served = std::thread::spawn(move || {
            runtime().block_on(async {
                let (fleet, _) = Fleet::start(fleet_config, rendezvous, |_| ()).await?;
                let text = TextStage::new(facts, ReasoningFormat::Off);
                let readers = Readers::new(outbox, UNREAD_BYTES_MAX);
                let (commands, drain) = (commands_out, Duration::from_secs(1));
                let mut serve = ServeLoop {
                    sched,
                    text,
                    readers,
                    fleet,
                    commands,
                    drain,
                    load,
                    requests,
                    meter: None,
                };
                readiness.send_replace(Readiness::Ready);
                attach.send(()).unwrap();
                let outcome = serve.run().await;
                if let Err(error) = &outcome {
                    readiness.send_replace(Readiness::Lost(error.to_string()));
                }
                serve.fleet.stop("the test is over").await;
                outcome
            })
        });
        ready.recv_timeout(PATIENCE).expect("the scripted cluster does not come up");
        Self { client, commands, served, close, front, workers }
    }

    /// Waits until the serve loop is lost.
    pub(crate) fn lost(self) -> FleetError {
        self.end().expect_err("the cluster is well")
    }

    /// Drains and ends it.
    pub(crate) fn stop(self) {
        self.commands.blocking_send(ServeCommand::Stop).unwrap();
        self.end().unwrap();
    }

    fn end(self) -> Result<(), FleetError> {
        let outcome = self.served.join().unwrap();
        let _ = self.close.send(());
        self.front.join().unwrap();
        self.workers.into_iter().for_each(|worker| worker.join().unwrap());
        outcome
    }
}

fn text_process(source: &Checkpoint) -> TextProcess {
    let config = TextConfig {
        program: env!("CARGO_BIN_EXE_binfer").into(),
        source: TextSource::of(source),
        split_special_tokens: false,
        deadlines: Deadlines::default(),
    };
    TextProcess::start(config, Box::new(|_| {})).unwrap()
}

/// A thread for each rank, which dials in.
fn start_ranks(scripts: &[Script], rendezvous: &Rendezvous) -> Vec<JoinHandle<()>> {
    let ranks = (0..).zip(scripts).map(|(rank, script)| {
        let (rank, script, world) = (Rank(rank), *script, scripts.len());
        let dial = (rendezvous.address(), rendezvous.instance().to_owned());
        std::thread::spawn(move || runtime().block_on(work(rank, script, world, dial)))
    });
    ranks.collect()
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn model_info(text: &TextFacts, vocab: u32) -> ModelInfo {
    ModelInfo {
        name: "script".into(),
        context_max: 512,
        vocab,
        end_ids: text.end_ids().to_vec(),
        sampling: text.sampling(),
        reasoning: ReasoningFormat::Off,
        weights: 0,
        created: 0,
    }
}

/// Where workers of a test dial in.
pub(crate) fn rendezvous() -> Rendezvous {
    Rendezvous::new(&[SocketFolder { variable: None, folder: std::env::temp_dir() }]).unwrap()
}

/// Workers that dial in by themselves.
pub(crate) fn fleet_config(world: usize) -> FleetConfig {
    FleetConfig {
        replica: ReplicaId(0),
        epoch: Epoch(1),
        world,
        spawn: Spawn::Elsewhere,
        step_deadline: Duration::from_secs(30),
        attach_deadline: PATIENCE,
        load: LoadConfig {
            model: model_path(),
            model_digest: 1,
            kv_dtype: KvDtype::F32,
            threads: 1,
            slots_max: 8,
            tokens_per_step_max: 64,
            context_max: 512,
            kv_budget: KvBudget::Bytes(1 << 30),
            cuda: None,
            random_weights: false,
            timing: Timing::default(),
        },
    }
}

fn sched_config(setup: Setup<'_>) -> SchedConfig {
    SchedConfig {
        replica: ReplicaId(0),
        epoch: Epoch(1),
        slots_max: setup.slots_max,
        tokens_per_step_max: 64,
        context_max: 512,
        queue_max: setup.queue_max,
        queue_tokens_max: 1 << 20,
        kv_groups: vec![KvGroupConfig { block_tokens: BLOCK_TOKENS, blocks: BLOCKS, window: None }],
        prefix_cache: true,
    }
}

/// A worker's life: dial in, handshake, plans.
async fn work(rank: Rank, script: Script, world: usize, (socket, instance): (PathBuf, String)) {
    let (up, mut down) = dial(&socket, hello(rank, instance)).await;
    let mut beat = tokio::time::interval(Duration::from_millis(250));
    let (mut rows, mut operations) = (Vec::new(), 0);
    loop {
        let message = tokio::select! {
            message = down.message() => message,
            _ = beat.tick() => {
                operations += 1;
                send(&up, up::Message::Beat(Beat { operations, ..Beat::default() }));
                continue;
            }
        };
        let Ok(Some(message)) = message else { return };
        match message.message.unwrap() {
            down::Message::Load(_) => loaded(rank, world, &up),
            down::Message::Allocate(_) => {
                send(&up, up::Message::Ready(Ready { rank: rank.0, ..Ready::default() }))
            }
            down::Message::Plan(plan) => {
                let plan = Plan::try_from(plan).unwrap();
                if let Some(result) = script(&plan, answer(rank, &plan, &mut rows)) {
                    send(&up, up::Message::Result((&result).into()));
                }
            }
            down::Message::Stop(_) => return,
            _ => {}
        }
    }
}

/// Opens a worker's stream, as soon as somebody listens, and says `hello`.
pub(crate) async fn dial(socket: &Path, hello: Hello) -> (UnboundedSender<Up>, Streaming<Down>) {
    let (up, outgoing) = unbounded_channel();
    send(&up, up::Message::Hello(hello));
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let outgoing = UnboundedReceiverStream::new(outgoing);
    let down = ClusterClient::new(channel).attach(outgoing).await.unwrap().into_inner();
    (up, down)
}

fn send(up: &UnboundedSender<Up>, message: up::Message) {
    let _ = up.send(Up { message: Some(message) });
}

/// What a worker says first.
pub(crate) fn hello(rank: Rank, instance: String) -> Hello {
    Hello {
        version: VERSION.into(),
        build: PROTOCOL_DIGEST.into(),
        host: "local".into(),
        pid: std::process::id(),
        instance,
        wanted_rank: Some(rank.0),
    }
}

fn loaded(rank: Rank, world: usize, up: &UnboundedSender<Up>) {
    send(up, up::Message::Loaded(Loaded { blocks_max: vec![BLOCKS], ..Loaded::default() }));
    if rank == Rank(0) && world > 1 {
        send(up, up::Message::CommId(CommId { id: b"none".to_vec() }));
    }
}

/// An honest result. The tokens are letters, so that text comes of each.
fn answer(rank: Rank, plan: &Plan, rows: &mut Vec<Row>) -> StepResult {
    *rows = match &plan.rows {
        Rows::Same => expand_rows(rows),
        Rows::List(rows) => rows.clone(),
    };
    let letter = |row: &Row| 66 + u32::try_from(plan.step.0 % 20).unwrap() + row.slot.0;
    let row_result = |row: &Row| RowResult {
        status: RowStatus::Ok,
        tokens: (row.outputs == Outputs::Last).then(|| letter(row)).into_iter().collect(),
        logprobs: Vec::new(),
    };
    StepResult {
        replica: plan.replica,
        epoch: plan.epoch,
        step: plan.step,
        rank,
        plan_hash: plan.hash(rows),
        digest: 0xd1_9e57 + plan.step.0,
        rows: if rank == Rank(0) { rows.iter().map(row_result).collect() } else { Vec::new() },
        step_us: 1,
    }
}
