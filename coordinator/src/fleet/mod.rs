//! The workers of one replica: started, greeted, sent plans, listened to, given up together.
//!
//! `start` runs the handshake; then `send` broadcasts a plan and `next` waits for a step on which
//! all ranks agree, or for the first sign that one is lost. All of it runs on the serve loop's
//! runtime. Deliberately absent: what a plan says, and recovery: a fleet that lost a rank is over.

mod aggregator;
mod config;
mod error;
mod handshake;
mod rendezvous;
mod server;
mod socket;
mod spawn;
mod watchdog;

use std::time::{Duration, Instant};

use binfer_proto::cluster::{Stop, down, up};
use binfer_proto::{Plan, Rank, StepResult};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Interval;

pub use config::{CudaConfig, FleetConfig, LoadConfig, Spawn};
pub use error::FleetError;
pub use handshake::{FleetInfo, LoadProgress};
pub use rendezvous::{Rendezvous, SocketFolder};
pub use spawn::through_pipe;

use aggregator::ResultAggregator;
use server::{ConnectionId, Downlink, FleetEvent};
use spawn::{Worker, WorkerProgram};
use watchdog::Watchdog;

use crate::memory::{KernelFiles, OomKills};

/// How long a rank that fails is not blamed yet: a peer that was killed makes others fail, and the
/// news of its end may come a moment later.
const BLAME_DELAY: Duration = Duration::from_millis(300);
/// How long workers get to end by themselves.
const WORKER_EXIT_GRACE: Duration = Duration::from_millis(1000);
/// Plans that workers may hold, the running one included.
const IN_FLIGHT_MAX: usize = 2;

/// The workers of one replica.
#[derive(Debug)]
pub struct Fleet {
    config: FleetConfig,
    events: UnboundedReceiver<FleetEvent>,
    /// Children by rank; none where somebody else started them.
    workers: Vec<Worker>,
    /// How many of them have ended.
    ended: usize,
    /// Connections that have not said `Hello`.
    unidentified: Vec<(ConnectionId, Downlink)>,
    /// By rank.
    peers: Vec<Option<(ConnectionId, Downlink)>>,
    aggregator: ResultAggregator,
    watchdog: Watchdog,
    tick: Interval,
    suspects: Vec<Suspect>,
    oom_kills: OomKills,
    /// Where workers dial in, until all have.
    rendezvous: Option<Rendezvous>,
}

/// A rank that failed or fell silent, to be blamed unless a better reason turns up.
#[derive(Debug)]
struct Suspect {
    rank: usize,
    since: Instant,
    /// What it said itself; none if its stream just closed.
    reported: Option<String>,
}

impl Fleet {
    /// Listens and starts the processes; `handshake` does the rest.
    fn launch(config: FleetConfig, rendezvous: Rendezvous) -> Result<Self, FleetError> {
        let (send, events) = unbounded_channel();
        server::listen(&rendezvous, send.clone())?;
        let mut workers = Vec::new();
        if let Spawn::Processes { program } = &config.spawn {
            let shares_gpu = config.load.cuda.as_ref().is_some_and(|cuda| cuda.is_shared);
            let (path, socket) = (program.as_path(), &*rendezvous.address());
            let program =
                WorkerProgram { path, socket, instance: rendezvous.instance(), shares_gpu };
            for rank in 0..config.world {
                workers.push(Worker::start(program, rank, send.clone())?);
            }
        }
        let watchdog = Watchdog::new(config.world, config.step_deadline, Instant::now());
        let mut tick = tokio::time::interval(watchdog.interval());
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Ok(Self {
            aggregator: ResultAggregator::new(config.world),
            peers: vec![None; config.world],
            config,
            events,
            workers,
            ended: 0,
            unidentified: Vec::new(),
            watchdog,
            tick,
            suspects: Vec::new(),
            oom_kills: KernelFiles::here().oom_kills(),
            rendezvous: Some(rendezvous),
        })
    }

    /// Whether another plan may go out.
    pub fn has_room(&self) -> bool {
        self.aggregator.in_flight() < IN_FLIGHT_MAX
    }

    /// Broadcasts a plan. Never waits: streams hold two plans at most.
    pub fn send(&mut self, plan: &Plan, plan_hash: u64) {
        self.aggregator.sent(plan.epoch, plan.step, plan_hash);
        self.watchdog.busy(true, Instant::now());
        self.broadcast(&down::Message::Plan(plan.into()));
    }

    /// The next step on which all ranks agree. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<StepResult, FleetError> {
        loop {
            let (rank, message) = self.receive().await?;
            let up::Message::Result(result) = message else {
                return Err(FleetError::worker(rank, "sent something that is not a result"));
            };
            let result =
                StepResult::try_from(result).map_err(|cause| FleetError::worker(rank, cause))?;
            if result.rank != rank_id(rank) {
                return Err(FleetError::worker(rank, format!("calls itself rank {}", result.rank)));
            }
            let now = Instant::now();
            self.watchdog.moved(rank, now);
            let agreed = self.aggregator.take(rank, result)?;
            self.watchdog.busy(self.aggregator.in_flight() > 0, now);
            if let Some(result) = agreed {
                return Ok(result);
            }
        }
    }

    /// Ends all workers: asks, waits a second, kills.
    pub async fn stop(mut self, reason: &str) {
        self.broadcast(&down::Message::Stop(Stop { reason: reason.into() }));
        let mut left = self.workers.len() - self.ended;
        let _ = tokio::time::timeout(WORKER_EXIT_GRACE, self.wait_for_exits(&mut left)).await;
        self.workers.iter_mut().for_each(Worker::kill);
        let _ = tokio::time::timeout(WORKER_EXIT_GRACE, self.wait_for_exits(&mut left)).await;
    }

    async fn wait_for_exits(&mut self, left: &mut usize) {
        while *left > 0 {
            match self.events.recv().await {
                Some(FleetEvent::Exited { .. }) => *left -= 1,
                Some(_) => {}
                None => return,
            }
        }
    }

    fn broadcast(&self, message: &down::Message) {
        for (_, down) in self.peers.iter().flatten() {
            down.send(message.clone());
        }
    }

    /// The next message of a rank that is not a heartbeat. Nothing is lost if the future is dropped.
    async fn receive(&mut self) -> Result<(usize, up::Message), FleetError> {
        loop {
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                _ = self.tick.tick() => {
                    self.check_deadlines()?;
                    continue;
                }
            };
            match event {
                Some(FleetEvent::Attached { connection, down }) => {
                    self.unidentified.push((connection, down));
                }
                Some(FleetEvent::Message { connection, message }) => {
                    if let Some(known) = self.take_message(connection, message)? {
                        return Ok(known);
                    }
                }
                Some(FleetEvent::Closed { connection }) => {
                    self.unidentified.retain(|(place, _)| *place != connection);
                    if let Some(rank) = self.rank_of(connection) {
                        self.suspects.push(Suspect { rank, since: Instant::now(), reported: None });
                    }
                }
                Some(FleetEvent::Exited { rank, status }) => {
                    self.ended += 1;
                    return Err(self.cause_of_loss(rank, &status));
                }
                None => return Err(FleetError::Local("the worker server has ended".into())),
            }
        }
    }

    fn take_message(
        &mut self,
        connection: ConnectionId,
        message: up::Message,
    ) -> Result<Option<(usize, up::Message)>, FleetError> {
        let Some(rank) = self.rank_of(connection) else {
            return Ok(self.accept_hello(connection, message));
        };
        self.watchdog.heard(rank, Instant::now());
        match message {
            up::Message::Beat(beat) => self.watchdog.beat(rank, beat, Instant::now()),
            up::Message::Failed(failed) => {
                self.suspects.push(Suspect {
                    rank,
                    since: Instant::now(),
                    reported: Some(error::failure_text(&failed)),
                });
            }
            other => return Ok(Some((rank, other))),
        }
        Ok(None)
    }

    fn check_deadlines(&mut self) -> Result<(), FleetError> {
        if let Some(Suspect { rank, since, .. }) = self.suspects.first()
            && since.elapsed() >= BLAME_DELAY
        {
            let cause = format!("closed its connection ({})", self.last_seen(*rank));
            return Err(self.reported_cause().unwrap_or(FleetError::worker(*rank, cause)));
        }
        if self.peers.iter().all(Option::is_some)
            && let Some(late) = self.watchdog.late(Instant::now())
        {
            return Err(late);
        }
        Ok(())
    }

    /// A child ended. Killed, it is the reason for whatever the others say; otherwise those who
    /// said something before know better.
    fn cause_of_loss(
        &self,
        rank: usize,
        status: &std::io::Result<std::process::ExitStatus>,
    ) -> FleetError {
        let how = spawn::describe(status);
        let oom = self.oom_kills.cause().filter(|_| spawn::signal(status) == Some(9));
        let why = oom.map_or_else(String::new, |cause| format!(" {cause}"));
        let cause = format!("{how}{why} ({})", self.last_seen(rank));
        let ended = FleetError::worker(rank, cause);
        if spawn::signal(status).is_some() { ended } else { self.reported_cause().unwrap_or(ended) }
    }

    /// The first rank that said itself why it failed.
    fn reported_cause(&self) -> Option<FleetError> {
        let mut all = self.suspects.iter();
        all.find_map(|one| Some(FleetError::worker(one.rank, one.reported.clone()?)))
    }

    fn last_seen(&self, rank: usize) -> String {
        let last = self.watchdog.last(rank);
        match self.workers.get(rank) {
            Some(worker) => format!("process {}, {last}", worker.pid),
            None => last,
        }
    }

    fn rank_of(&self, connection: ConnectionId) -> Option<usize> {
        self.peers
            .iter()
            .position(|peer| peer.as_ref().is_some_and(|(known, _)| *known == connection))
    }
}

/// Worlds are small; an index that is no `u32` cannot occur.
pub(crate) fn rank_id(rank: usize) -> Rank {
    Rank(u32::try_from(rank).unwrap_or(u32::MAX))
}
