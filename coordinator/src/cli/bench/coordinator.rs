//! `binfer bench coordinator`: CPU time of a step, from result bytes in to plan and events out.
//!
//! The whole coordinator is real and in this process: fleet, serve loop, scheduler, text and HTTP.
//! The worker and the clients are in another process (`peer.rs`). With a step of fixed length, as
//! on a device, all events of a step are written before the next result comes. So what is measured
//! between two results is one step.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use binfer_console as console;
use binfer_proto::{Epoch, KvDtype, ReplicaId};
use binfer_shard::Checkpoint;
use binfer_shard::fit::KvBudget;
use clap::Args;
use tokio::process::{Child, Command as Process};
use tokio::sync::{mpsc, oneshot, watch};

use super::peer;
use super::samples::Samples;
use crate::cli::table::table;
use crate::config;
use crate::fleet::{Fleet, FleetConfig, FleetInfo, LoadConfig, Rendezvous, Spawn, through_pipe};
use crate::front::{
    self, Core, CoreLimits, CoreParts, Load, ModelInfo, Outbox, Readers, Readiness,
    UNREAD_BYTES_MAX,
};
use crate::http;
use crate::load_meter::LoadMeter;
use crate::locate::locate;
use crate::meter::{StepCost, StepMeter};
use crate::metrics::{Metrics, RequestMeter};
use crate::report::{Report, Verbosity};
use crate::sched::{KvGroupConfig, SchedConfig, Scheduler};
use crate::serve::ServeLoop;
use crate::text::process::{Deadlines, TextConfig, TextProcess, TextSource};
use crate::text::{ReasoningFormat, SAMPLING_DEFAULT, TextStage};
use crate::timing::Timing;

/// The steps before the measured ones, in which streams begin and memory settles.
const WARM_UP: u32 = 1000;
const BLOCK_TOKENS: u32 = 64;
const CONTEXT_MAX: u32 = 1 << 24;

/// Arguments of `binfer bench coordinator`.
#[derive(Args, Clone, Debug)]
pub(super) struct CoordinatorBench {
    /// A GGUF file, or `demo`: its vocabulary is used, its weights are not
    #[arg(default_value = "demo")]
    model: String,
    /// Clients at once, several numbers for several rows
    #[arg(long, default_value = "64,256", value_delimiter = ',', value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    streams: Vec<u32>,
    /// Steps that are measured
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    steps: u32,
    /// Length of a step in microseconds, several numbers for several rows; 0 is as fast as plans
    /// come
    #[arg(long, default_value = "2000,0", value_delimiter = ',', value_name = "MICROSECONDS")]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    step_us: Vec<u64>,
    /// Clients share a connection of HTTP/2 instead of having one of HTTP/1.1 each
    #[arg(long)]
    http2: bool,
    /// Keep cores without work from sleeping, by threads of the lowest priority in the other
    /// process
    #[arg(long)]
    keep_awake: bool,
}

/// Measures and prints.
pub(super) fn run(bench: &CoordinatorBench) -> Result<ExitCode> {
    let path = locate(&bench.model, None, &Report::new(Verbosity::Normal))?.path;
    let source = Checkpoint::open(path.clone())?;
    let text = Arc::new(TextProcess::start(
        TextConfig {
            program: PathBuf::from("/proc/self/exe"),
            source: TextSource::of(&source),
            split_special_tokens: false,
            deadlines: Deadlines::default(),
        },
        Box::new(|_| {}),
    )?);
    let vocab = source.spec().vocab;
    let mut rows = Vec::new();
    for (streams, step_us) in
        bench.streams.iter().flat_map(|streams| bench.step_us.iter().map(|us| (*streams, *us)))
    {
        let setup = CoordinatorRun {
            path: path.clone(),
            vocab,
            streams,
            step_us,
            steps: bench.steps.max(1),
            http2: bench.http2,
            keep_awake: bench.keep_awake,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        rows.push(runtime.block_on(setup.measure(Arc::clone(&text)))?);
    }
    let title = format!("CPU time of the coordinator per step, us; {} steps each\n", bench.steps);
    let head = [
        "streams",
        "step us",
        "median",
        "p10",
        "p90",
        "p99",
        "serve loop",
        "events/step",
        "steps/s",
    ];
    console::print(&(title + &table(&head, &rows)))?;
    Ok(ExitCode::SUCCESS)
}

/// The settings of one row of the table.
struct CoordinatorRun {
    path: PathBuf,
    vocab: u32,
    streams: u32,
    step_us: u64,
    steps: u32,
    http2: bool,
    keep_awake: bool,
}

impl CoordinatorRun {
    /// Runs one coordinator from start to end.
    async fn measure(&self, text: Arc<TextProcess>) -> Result<Vec<String>> {
        let rendezvous = Rendezvous::new(&config::socket_folders())?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("listening")?;
        let mut peer = self.start_peer(&rendezvous, &listener)?;
        let (commands_in, commands) = mpsc::channel(1024);
        let counts = tokio::spawn(peer::read_event_count(peer.stdout.take(), commands_in.clone()));
        let (fleet, facts) = Fleet::start(self.fleet_config(), rendezvous, |_| {}).await?;
        let outbox = Arc::new(Outbox::default());
        let (_ready, readiness) = watch::channel(Readiness::Ready);
        let (load, load_out) = watch::channel(Load::default());
        let metrics = Arc::new(Metrics::new(&self.model_info().name));
        let core = Core::new(CoreParts {
            commands: commands_in,
            model: Arc::new(self.model_info()),
            text: Arc::clone(&text),
            readiness,
            load: load_out,
            metrics: Arc::clone(&metrics),
            outbox: Arc::clone(&outbox),
            limits: CoreLimits::default(),
        });
        let (close, closing) = oneshot::channel();
        let front = std::thread::spawn(move || front(listener, core, closing));
        let config = self.sched_config(&facts);
        let mut serve = ServeLoop {
            load: LoadMeter::new(&config, load, Arc::clone(&metrics)),
            requests: RequestMeter::new(metrics),
            sched: Scheduler::new(config)?,
            text: TextStage::new(Arc::clone(text.facts()), ReasoningFormat::Off),
            readers: Readers::new(outbox, UNREAD_BYTES_MAX),
            fleet,
            commands,
            drain: Duration::ZERO,
            meter: Some(StepMeter::default()),
        };
        let began = Instant::now();
        serve.run().await?;
        let seconds = began.elapsed().as_secs_f64();
        let ServeLoop { fleet, meter, .. } = serve;
        fleet.stop("measured").await;
        let _ = close.send(());
        front.join().map_err(|_| anyhow!("the HTTP front panicked"))??;
        peer.wait().await?;
        let events = counts.await??;
        self.row(meter.unwrap_or_default().costs(), events, seconds)
    }

    fn start_peer(&self, rendezvous: &Rendezvous, http: &TcpListener) -> Result<Child> {
        let mut process = Process::new("/proc/self/exe");
        process.args(["bench", "peer"]);
        process.arg("--model").arg(&self.path).arg("--socket").arg(rendezvous.address());
        let numbers = [
            ("--http", http.local_addr()?.to_string()),
            ("--streams", self.streams.to_string()),
            ("--tokens", self.tokens().to_string()),
            ("--step-us", self.step_us.to_string()),
        ];
        numbers.iter().for_each(|(flag, value)| {
            process.arg(flag).arg(value);
        });
        let switches = [("--http2", self.http2), ("--keep-awake", self.keep_awake)];
        process.args(switches.into_iter().filter(|(_, on)| *on).map(|(switch, _)| switch));
        process
            .stdin(through_pipe(rendezvous.instance())?)
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        process.spawn().context("starting the bench's peer")
    }

    /// The tokens of each answer; the first streams run for a while before the last one has joined.
    fn tokens(&self) -> u32 {
        self.steps.saturating_add(2 * WARM_UP + 8 * self.streams)
    }

    /// The row of the table for the steps in which all streams ran.
    fn row(&self, costs: &[StepCost], events: u64, seconds: f64) -> Result<Vec<String>> {
        let full = costs.iter().filter(|cost| cost.rows == self.streams as usize);
        let costs: Vec<StepCost> =
            full.skip(WARM_UP as usize).take(self.steps as usize).copied().collect();
        anyhow::ensure!(costs.len() == self.steps as usize, "only {} full steps", costs.len());
        let us = |part: fn(&StepCost) -> u64| {
            Samples::new(costs.iter().map(|cost| part(cost) as f64 / 1e3).collect())
        };
        let process = us(|cost| cost.process_ns);
        let quantile = |thousandths| format!("{:.1}", process.quantile(thousandths));
        let tokens = f64::from(self.tokens());
        Ok(vec![
            self.streams.to_string(),
            self.step_us.to_string(),
            quantile(500),
            quantile(100),
            quantile(900),
            quantile(990),
            format!("{:.1}", us(|cost| cost.serve_ns).median()),
            format!("{:.1}", events as f64 / tokens),
            format!("{:.0}", tokens / seconds),
        ])
    }

    fn fleet_config(&self) -> FleetConfig {
        FleetConfig {
            replica: ReplicaId(0),
            epoch: Epoch(1),
            world: 1,
            spawn: Spawn::Elsewhere,
            step_deadline: Duration::from_secs(10),
            attach_deadline: Duration::from_secs(30),
            load: LoadConfig {
                model: self.path.clone(),
                model_digest: 0,
                kv_dtype: KvDtype::F32,
                threads: 1,
                slots_max: self.streams,
                tokens_per_step_max: self.streams.max(512),
                context_max: CONTEXT_MAX,
                kv_budget: KvBudget::Bytes(0),
                cuda: None,
                random_weights: false,
                timing: Timing::default(),
            },
        }
    }

    fn sched_config(&self, facts: &FleetInfo) -> SchedConfig {
        let kv_group = |blocks: &u32| KvGroupConfig {
            block_tokens: BLOCK_TOKENS,
            blocks: *blocks,
            window: None,
        };
        SchedConfig {
            replica: ReplicaId(0),
            epoch: Epoch(1),
            slots_max: self.streams,
            tokens_per_step_max: self.streams.max(512),
            context_max: CONTEXT_MAX,
            queue_max: 1 << 20,
            queue_tokens_max: 1 << 20,
            kv_groups: facts.blocks.iter().map(kv_group).collect(),
            prefix_cache: true,
        }
    }

    fn model_info(&self) -> ModelInfo {
        ModelInfo {
            name: "script".into(),
            context_max: CONTEXT_MAX,
            vocab: self.vocab,
            end_ids: Vec::new(),
            sampling: SAMPLING_DEFAULT,
            reasoning: ReasoningFormat::Off,
            weights: 0,
            created: 0,
        }
    }
}

/// The HTTP front, on a thread of its own as in `binfer serve`.
fn front(listener: TcpListener, core: Core, closing: oneshot::Receiver<()>) -> Result<()> {
    let closing = async { drop(closing.await) };
    let serving = http::serve(listener, core.clone(), http::HttpConfig::default(), closing);
    Ok(front::thread::run(&core, serving)??)
}
