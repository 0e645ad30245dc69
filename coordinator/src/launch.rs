//! One cluster's life: open the model, start the workers, run a front and the serve loop, take all
//! of it down together.
//!
//! The main thread stays here: workers are its children and end with it. The front (HTTP or a
//! command) has a thread of its own. Deliberately absent: recovery; a lost worker ends the process
//! with status 70, for a supervisor to restart.

use std::sync::Arc;
use std::time::Duration;

use binfer_shard::Checkpoint;
use tokio::sync::{mpsc, watch};

use crate::blueprint::Blueprint;
use crate::config::{self, ConfigError};
use crate::error::LaunchError;
use crate::fleet::{Fleet, FleetError, FleetInfo, Rendezvous};
use crate::front::{
    self, Core, CoreLimits, CoreParts, FrontContext, Outbox, Readers, Readiness, ServeCommand,
    UNREAD_BYTES_MAX,
};
use crate::locate::locate;
use crate::model_args::ModelArgs;
use crate::report::Report;
use crate::sched::{Counters, Scheduler};
use crate::serve::ServeLoop;
use crate::shard_cache::ShardCache;
use crate::signals::{self, StopSignal};
use crate::text::process::{TextConfig, TextProcess};
use crate::text::{TextFacts, TextStage};

/// Commands that may wait for the serve loop.
const COMMANDS_MAX: usize = 1024;
/// How long a front may take to write its last words.
const FRONT_EXIT_GRACE: Duration = Duration::from_secs(2);

/// What a cluster's life came to.
#[derive(Clone, Copy, Debug)]
pub struct Ended<T> {
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
    /// Random weights and a vocabulary of numbers; of the model only `config.json` is read.
    pub random_weights: bool,
    /// Control tokens in messages of a chat are text.
    pub split_special_tokens: bool,
}

/// Runs `front` over a cluster and takes the cluster down when it returns, when a signal comes, or
/// when a worker is lost. Must be called on the main thread.
pub fn launch<T: Send + 'static>(
    plan: LaunchOptions<'_>,
    front: impl AsyncFnOnce(FrontContext) -> T + Send + 'static,
) -> Result<Ended<T>, LaunchError> {
    let report = Report::new(plan.args.verbosity());
    plan.args.check_alone()?;
    let located = locate(&plan.args.model, plan.args.revision.as_deref(), &report)?;
    let open = if plan.random_weights { Checkpoint::assumed } else { Checkpoint::open };
    let source = open(&located.path)?;
    let mut options = plan.args.check(located.name, &source)?;
    report.phase("model opened");
    source.notes().iter().for_each(|note| report.line(note));
    let cache =
        ShardCache { dir: plan.args.shard_cache.clone(), verify: plan.args.shard_cache_verify };
    let source = cache.source(source, options.world, &report);
    source.path().clone_into(&mut options.path);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let random_weights = plan.random_weights;
    let blueprint = Blueprint { options, source: Arc::new(source), random_weights };
    if blueprint.options.cuda.is_none() {
        blueprint.host_lines()?.iter().for_each(|line| report.line(line));
    }
    let text = blueprint.text_config(plan.split_special_tokens);
    let launched = Launched { blueprint, text, report, drain: plan.drain };
    runtime.block_on(launched.supervise(front))
}

struct Launched {
    blueprint: Blueprint,
    text: TextConfig,
    report: Report,
    drain: Duration,
}

/// The ends of the channels that the supervisor keeps.
struct Ends {
    commands: mpsc::Receiver<ServeCommand>,
    readiness: watch::Sender<Readiness>,
    outbox: Arc<Outbox>,
    core: Core,
    stopped: watch::Receiver<Option<StopSignal>>,
}

impl Launched {
    async fn supervise<T: Send + 'static>(
        self,
        front: impl AsyncFnOnce(FrontContext) -> T + Send + 'static,
    ) -> Result<Ended<T>, LaunchError> {
        let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
        let starting = Readiness::Starting("weights are being loaded".into());
        let (readiness, readiness_out) = watch::channel(starting);
        // Before the first worker: from here on an end is an orderly one.
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

        let outbox = Arc::new(Outbox::default());
        let core = Core::new(CoreParts {
            commands: commands_in.clone(),
            model: Arc::new(self.blueprint.model_info(&facts)),
            text,
            readiness: readiness_out.clone(),
            outbox: Arc::clone(&outbox),
            limits: CoreLimits::default(),
        });
        let (close, closing) = watch::channel(false);
        let context = FrontContext { core: core.clone(), readiness: readiness_out, closing };
        let front = front::thread::start(context, commands_in, front)?;
        let ends = Ends { commands, readiness, outbox, core, stopped: stopped.clone() };
        let outcome = self.serve(fleet, facts, ends).await;
        close.send_replace(true);
        let front = tokio::time::timeout(FRONT_EXIT_GRACE, front).await;
        outcome?;
        let signal = *stopped.borrow();
        match (front, signal) {
            (Ok(Ok(value)), signal) => Ok(Ended { value, signal }),
            (Ok(Err(_)), _) => Err(LaunchError::Defect("the front has panicked".into())),
            (Err(_), Some(signal)) => Err(LaunchError::Interrupted(signal)),
            (Err(_), None) => Err(std::io::Error::other("the front did not end in time").into()),
        }
    }

    /// Waits for the fleet, runs the serve loop, ends the workers.
    async fn serve(
        &self,
        fleet: tokio::task::JoinHandle<Result<(Fleet, FleetInfo), FleetError>>,
        text: Arc<TextFacts>,
        mut ends: Ends,
    ) -> Result<(), LaunchError> {
        let started = tokio::select! {
            started = fleet => started.map_err(std::io::Error::other)?,
            _ = ends.stopped.wait_for(Option::is_some) => return Ok(()),
        };
        self.report.loaded();
        let (fleet, facts) = started.inspect_err(|error| {
            ends.readiness.send_replace(Readiness::Lost(error.to_string()));
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
            ends.readiness.send_replace(Readiness::Lost(error.to_string()));
            fleet.stop("the KV cache does not fit").await;
            return Err(error.into());
        }
        let config = self.blueprint.sched_config(&facts);
        let note = self.blueprint.context_note(config.context_max);
        note.iter().for_each(|note| self.report.line(note));
        ends.core.limit_context(config.context_max);
        let sched = Scheduler::new(config).map_err(|error| ConfigError(error.to_string()))?;
        let text = TextStage::new(text);
        let readers = Readers::new(ends.outbox, UNREAD_BYTES_MAX);
        let (commands, drain) = (ends.commands, self.drain);
        let meter = None;
        let mut serve = ServeLoop { sched, text, readers, fleet, commands, drain, meter };
        ends.readiness.send_if_modified(|state| {
            let starting = matches!(state, Readiness::Starting(_));
            if starting {
                *state = Readiness::Ready;
            }
            starting
        });
        let outcome = serve.run().await;
        if let Err(error) = &outcome {
            ends.readiness.send_replace(Readiness::Lost(error.to_string()));
        }
        let Counters { preemptions, prefix_hits, .. } = serve.sched.stats().counters;
        self.report.phase(&format!("served; preemptions {preemptions}, prefix hits {prefix_hits}"));
        serve.fleet.stop("the coordinator is going down").await;
        Ok(outcome?)
    }
}

/// First SIGINT or SIGTERM drains, a second one ends the process at once.
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
