//! One cluster's life: open the model, start the workers, run the fronts and the serve loop, and
//! end all of them together.
//!
//! The main thread stays here: workers are its children and end with it. The fronts (HTTP, or a
//! command) have a thread of their own. There is no recovery: a lost worker ends the process with
//! status 70, for a supervisor to restart.

use std::sync::Arc;
use std::time::Duration;

use binfer_shard::Checkpoint;
use tokio::sync::{mpsc, watch};

use crate::blueprint::Blueprint;
use crate::config::{self, ConfigError};
use crate::error::LaunchError;
use crate::fleet::{Fleet, FleetError, FleetInfo, Rendezvous};
use crate::front::{
    self, Core, CoreLimits, CoreParts, FrontContext, Load, Outbox, Readers, Readiness,
    ServeCommand, UNREAD_BYTES_MAX,
};
use crate::load_meter::LoadMeter;
use crate::locate::locate;
use crate::metrics::{Metrics, RequestMeter};
use crate::model_args::ModelArgs;
use crate::report::Report;
use crate::sched::{Counters, Scheduler};
use crate::serve::ServeLoop;
use crate::shard_cache::ShardCache;
use crate::signals::{self, StopSignal};
use crate::text::process::{TextConfig, TextProcess};
use crate::text::{ReasoningFormat, ReasoningParserName, TextFacts, TextStage};

/// Commands that may wait for the serve loop.
const COMMANDS_MAX: usize = 1024;
/// How long the fronts may take to write what they have once the cluster is over: more than
/// `HttpConfig::linger`, for which HTTP waits when a client does not read, or does not send what it
/// began.
const FRONT_EXIT_GRACE: Duration = Duration::from_secs(3);

/// How a cluster's life ended.
#[derive(Clone, Copy, Debug)]
pub struct LaunchOutcome<T> {
    /// What the front returned.
    pub value: T,
    /// The signal that asked for the end, if one did.
    pub signal: Option<StopSignal>,
}

/// How a launch differs between commands.
#[derive(Clone, Copy, Debug)]
pub struct LaunchOptions<'a> {
    /// The model and how to run it.
    pub args: &'a ModelArgs,
    /// How long running requests may go on after a signal.
    pub drain: Duration,
    /// Weights are random and the vocabulary is numbers. Only `config.json` of the model is read.
    pub random_weights: bool,
    /// Control tokens in messages of a chat are read as text.
    pub split_special_tokens: bool,
    /// How answers in chats tell reasoning from content.
    pub reasoning_parser: ReasoningParserName,
}

/// Runs `front` over a cluster, and ends the cluster when it returns, when a signal comes, or when
/// a worker is lost. Must be called on the main thread.
pub fn launch<T: Send + 'static>(
    options: LaunchOptions<'_>,
    front: impl AsyncFnOnce(FrontContext) -> T + Send + 'static,
) -> Result<LaunchOutcome<T>, LaunchError> {
    let report = Report::new(options.args.verbosity());
    options.args.check_alone()?;
    let located = locate(&options.args.model, options.args.revision.as_deref(), &report)?;
    let open = if options.random_weights { Checkpoint::assumed } else { Checkpoint::open };
    let source = open(&located.path)?;
    let mut checked = options.args.check(located.name, &source)?;
    report.phase("model opened");
    source.notes().iter().for_each(|note| report.line(note));
    let cache = ShardCache {
        dir: options.args.shard_cache.clone(),
        verify: options.args.shard_cache_verify,
    };
    let source = cache.source(source, checked.world, &report);
    source.path().clone_into(&mut checked.path);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let blueprint = Blueprint {
        options: checked,
        source: Arc::new(source),
        random_weights: options.random_weights,
    };
    if blueprint.options.cuda.is_none() {
        blueprint.host_lines()?.iter().for_each(|line| report.line(line));
    }
    let text = blueprint.text_config(options.split_special_tokens);
    let reasoning_parser = options.reasoning_parser;
    let launch = Launch { blueprint, text, reasoning_parser, report, drain: options.drain };
    runtime.block_on(launch.supervise(front))
}

struct Launch {
    blueprint: Blueprint,
    text: TextConfig,
    reasoning_parser: ReasoningParserName,
    report: Report,
    drain: Duration,
}

/// The supervisor's ends of the channels to fronts and signals.
struct Channels {
    commands: mpsc::Receiver<ServeCommand>,
    readiness: watch::Sender<Readiness>,
    load: watch::Sender<Load>,
    metrics: Arc<Metrics>,
    outbox: Arc<Outbox>,
    core: Core,
    stopped: watch::Receiver<Option<StopSignal>>,
}

impl Launch {
    async fn supervise<T: Send + 'static>(
        self,
        front: impl AsyncFnOnce(FrontContext) -> T + Send + 'static,
    ) -> Result<LaunchOutcome<T>, LaunchError> {
        let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
        let starting = Readiness::Starting("weights are being loaded".into());
        let (readiness, readiness_out) = watch::channel(starting);
        // Before the first worker is started, so that a signal ends it in order.
        let stopped = watch_signals(commands_in.clone(), readiness.clone())?;
        let rendezvous = Rendezvous::new(&config::socket_folders())?;
        for place in rendezvous.rejected() {
            self.report
                .line(&format!("no place for the workers' socket: {place}; another is taken"));
        }
        let (config, report) = (self.blueprint.fleet_config(), self.report.clone());
        let fleet = tokio::spawn(Fleet::start(config, rendezvous, move |at| report.loading(at)));
        let report = self.report.clone();
        let tell = Box::new(move |line: &str| report.line(line));
        let text = Arc::new(TextProcess::started(self.text.clone(), tell).await?);
        let facts = Arc::clone(text.facts());
        facts.notes().iter().for_each(|note| self.report.line(note));
        self.report.phase("tokenizer built");
        let reasoning = self.reasoning_format(&facts)?;

        let outbox = Arc::new(Outbox::default());
        let (load, load_out) = watch::channel(Load::default());
        let metrics = Arc::new(Metrics::new(&self.blueprint.options.name));
        let core = Core::new(CoreParts {
            commands: commands_in.clone(),
            model: Arc::new(self.blueprint.model_info(&facts, reasoning)),
            text,
            readiness: readiness_out.clone(),
            load: load_out,
            metrics: Arc::clone(&metrics),
            outbox: Arc::clone(&outbox),
            limits: CoreLimits::default(),
        });
        let (close, closing) = watch::channel(false);
        let context = FrontContext { core: core.clone(), readiness: readiness_out, closing };
        let front = front::thread::start(context, commands_in, front)?;
        let channels =
            Channels { commands, readiness, load, metrics, outbox, core, stopped: stopped.clone() };
        let text = TextStage::new(facts, reasoning);
        let outcome = self.serve(fleet, text, channels).await;
        close.send_replace(true);
        let front = tokio::time::timeout(FRONT_EXIT_GRACE, front).await;
        outcome?;
        let signal = *stopped.borrow();
        match (front, signal) {
            (Ok(Ok(value)), signal) => Ok(LaunchOutcome { value, signal }),
            (Ok(Err(_)), _) => Err(LaunchError::Defect("the front has panicked".into())),
            (Err(_), Some(signal)) => Err(LaunchError::Interrupted(signal)),
            (Err(_), None) => Err(std::io::Error::other("the front did not end in time").into()),
        }
    }

    /// How answers in chats tell reasoning from content, which people are told of if they do.
    fn reasoning_format(&self, facts: &TextFacts) -> Result<ReasoningFormat, ConfigError> {
        let format = facts.reasoning().format(self.reasoning_parser);
        let format = format.map_err(|error| ConfigError(error.to_string()))?;
        if format != ReasoningFormat::Off {
            self.report.line(&format!("{}: {format}", self.blueprint.options.name));
        }
        Ok(format)
    }

    /// Waits for the fleet, runs the serve loop, ends the workers.
    async fn serve(
        &self,
        fleet: tokio::task::JoinHandle<Result<(Fleet, FleetInfo), FleetError>>,
        text: TextStage,
        mut channels: Channels,
    ) -> Result<(), LaunchError> {
        let started = tokio::select! {
            started = fleet => started.map_err(|_| {
                LaunchError::Defect("the task that starts the workers has panicked".into())
            })?,
            _ = channels.stopped.wait_for(Option::is_some) => return Ok(()),
        };
        self.report.loaded();
        let (fleet, facts) = started.inspect_err(|error| {
            channels.readiness.send_replace(Readiness::Lost(error.to_string()));
        })?;
        let bytes = facts.weight_bytes.iter().sum::<u64>() as f64;
        let (seconds, rate) =
            (facts.load_us as f64 / 1e6, bytes / 1e3 / facts.load_us.max(1) as f64);
        self.report.phase(&format!("weights loaded, in {seconds:.2} s, {rate:.1} GB/s"));
        self.report.phase("workers ready");
        let name = &self.blueprint.options.name;
        if let Some(summary) = self.blueprint.gpu_summary(&facts) {
            self.report.line(&format!("{name}: {summary}"));
        }
        facts.notes.iter().for_each(|note| self.report.line(note));
        self.report.line(&format!("{name}: ready in {:.2} s", self.report.elapsed_s()));
        if let Err(error) = self.blueprint.check_cache(&facts) {
            channels.readiness.send_replace(Readiness::Lost(error.to_string()));
            fleet.stop("the KV cache does not fit").await;
            return Err(error.into());
        }
        let config = self.blueprint.sched_config(&facts);
        let note = self.blueprint.context_note(config.context_max);
        note.iter().for_each(|note| self.report.line(note));
        channels.core.limit_context(config.context_max);
        let load = LoadMeter::new(&config, channels.load, Arc::clone(&channels.metrics));
        let sched = Scheduler::new(config).map_err(|error| ConfigError(error.to_string()))?;
        let readers = Readers::new(channels.outbox, UNREAD_BYTES_MAX);
        let mut serve = ServeLoop {
            sched,
            text,
            readers,
            fleet,
            commands: channels.commands,
            drain: self.drain,
            load,
            requests: RequestMeter::new(channels.metrics),
            meter: None,
        };
        channels.readiness.send_if_modified(|state| {
            let starting = matches!(state, Readiness::Starting(_));
            if starting {
                *state = Readiness::Ready;
            }
            starting
        });
        let outcome = serve.run().await;
        if let Err(error) = &outcome {
            channels.readiness.send_replace(Readiness::Lost(error.to_string()));
        }
        let Counters { preemptions, prefix_hits, .. } = serve.sched.stats().counters;
        self.report.phase(&format!("served; preemptions {preemptions}, prefix hits {prefix_hits}"));
        serve.fleet.stop("the coordinator is going down").await;
        Ok(outcome?)
    }
}

/// The first SIGINT or SIGTERM drains the server. A second one ends the process at once.
fn watch_signals(
    commands: mpsc::Sender<ServeCommand>,
    readiness: watch::Sender<Readiness>,
) -> std::io::Result<watch::Receiver<Option<StopSignal>>> {
    let (stop, stopped) = watch::channel(None);
    let mut stops = signals::stops()?;
    tokio::spawn(async move {
        loop {
            let signal = stops.next().await;
            if stop.send_replace(Some(signal)).is_some() {
                // Workers end with this process: the kernel sees to it.
                std::process::exit(signal.exit_status().into());
            }
            readiness.send_replace(Readiness::Draining);
            let _ = commands.send(ServeCommand::Stop).await;
        }
    });
    Ok(stopped)
}
