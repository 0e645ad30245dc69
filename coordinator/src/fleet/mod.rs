//! The workers of one replica: started, greeted, sent plans, listened to, given up together.
//!
//! `start` runs the handshake; then `send` broadcasts a plan and `next` waits for a step on which
//! all ranks agree, or for the first sign that one is lost. All of it runs on the serve loop's
//! runtime. Deliberately absent: what a plan says, and recovery: a fleet that lost a rank is over.

mod config;
mod error;
mod gather;
mod handshake;
mod rendezvous;
mod server;
mod socket;
mod spawn;
mod watch;

use std::time::{Duration, Instant};

use binfer_proto::cluster::{Stop, down, up};
use binfer_proto::{Plan, Rank, StepResult};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Interval;

pub use config::{CudaConfig, FleetConfig, LoadConfig, Spawn};
pub use error::FleetError;
pub use handshake::{Facts, LoadProgress};
pub use rendezvous::{Place, Rendezvous};
pub use spawn::through_pipe;

use gather::Gather;
use server::{Connection, Downlink, Incoming};
use spawn::{Program, Worker};
use watch::Watch;

use crate::memory::{Kernel, OomKills};

/// How long a rank that fails is not blamed yet: a peer that was killed makes others fail, and the
/// news of its end may come a moment later.
const OBITUARY: Duration = Duration::from_millis(300);
/// How long workers get to end by themselves.
const FAREWELL: Duration = Duration::from_millis(1000);
/// Plans that workers may hold, the running one included.
const IN_FLIGHT_MAX: usize = 2;

/// The workers of one replica.
#[derive(Debug)]
pub struct Fleet {
    config: FleetConfig,
    events: UnboundedReceiver<Incoming>,
    /// Children by rank; none where somebody else started them.
    workers: Vec<Worker>,
    /// How many of them have ended.
    ended: usize,
    /// Connections that have not said `Hello`.
    strangers: Vec<(Connection, Downlink)>,
    /// By rank.
    peers: Vec<Option<(Connection, Downlink)>>,
    gather: Gather,
    watch: Watch,
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
    said: Option<String>,
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
            let program = Program { path, socket, instance: rendezvous.instance(), shares_gpu };
            for rank in 0..config.world {
                workers.push(Worker::start(program, rank, send.clone())?);
            }
        }
        let watch = Watch::new(config.world, config.step_deadline, Instant::now());
        let mut tick = tokio::time::interval(watch.interval());
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Ok(Self {
            gather: Gather::new(config.world),
            peers: vec![None; config.world],
            config,
            events,
            workers,
            ended: 0,
            strangers: Vec::new(),
            watch,
            tick,
            suspects: Vec::new(),
            oom_kills: Kernel::here().oom_kills(),
            rendezvous: Some(rendezvous),
        })
    }

    /// Whether another plan may go out.
    pub fn has_room(&self) -> bool {
        self.gather.in_flight() < IN_FLIGHT_MAX
    }

    /// Broadcasts a plan. Never waits: streams hold two plans at most.
    pub fn send(&mut self, plan: &Plan, plan_hash: u64) {
        self.gather.sent(plan.epoch, plan.step, plan_hash);
        self.watch.busy(true, Instant::now());
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
            self.watch.moved(rank, now);
            let agreed = self.gather.take(rank, result)?;
            self.watch.busy(self.gather.in_flight() > 0, now);
            if let Some(result) = agreed {
                return Ok(result);
            }
        }
    }

    /// Ends all workers: asks, waits a second, kills.
    pub async fn stop(mut self, reason: &str) {
        self.broadcast(&down::Message::Stop(Stop { reason: reason.into() }));
        let mut left = self.workers.len() - self.ended;
        let _ = tokio::time::timeout(FAREWELL, self.exits(&mut left)).await;
        self.workers.iter_mut().for_each(Worker::kill);
        let _ = tokio::time::timeout(FAREWELL, self.exits(&mut left)).await;
    }

    async fn exits(&mut self, left: &mut usize) {
        while *left > 0 {
            match self.events.recv().await {
                Some(Incoming::Exited { .. }) => *left -= 1,
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
                    self.check_time()?;
                    continue;
                }
            };
            match event {
                Some(Incoming::Attached { connection, down }) => {
                    self.strangers.push((connection, down));
                }
                Some(Incoming::Message { connection, message }) => {
                    if let Some(known) = self.take_message(connection, message)? {
                        return Ok(known);
                    }
                }
                Some(Incoming::Closed { connection }) => {
                    self.strangers.retain(|(stranger, _)| *stranger != connection);
                    if let Some(rank) = self.rank_of(connection) {
                        self.suspects.push(Suspect { rank, since: Instant::now(), said: None });
                    }
                }
                Some(Incoming::Exited { rank, status }) => {
                    self.ended += 1;
                    return Err(self.judge_end(rank, &status));
                }
                None => return Err(FleetError::Local("the worker server has ended".into())),
            }
        }
    }

    fn take_message(
        &mut self,
        connection: Connection,
        message: up::Message,
    ) -> Result<Option<(usize, up::Message)>, FleetError> {
        let Some(rank) = self.rank_of(connection) else {
            return Ok(self.greet(connection, message));
        };
        self.watch.heard(rank, Instant::now());
        match message {
            up::Message::Beat(beat) => self.watch.beat(rank, beat, Instant::now()),
            up::Message::Failed(failed) => {
                self.suspects.push(Suspect {
                    rank,
                    since: Instant::now(),
                    said: Some(error::said(&failed)),
                });
            }
            other => return Ok(Some((rank, other))),
        }
        Ok(None)
    }

    fn check_time(&mut self) -> Result<(), FleetError> {
        if let Some(Suspect { rank, since, .. }) = self.suspects.first()
            && since.elapsed() >= OBITUARY
        {
            let cause = format!("closed its connection ({})", self.whereabouts(*rank));
            return Err(self.who_spoke().unwrap_or(FleetError::worker(*rank, cause)));
        }
        if self.peers.iter().all(Option::is_some)
            && let Some(late) = self.watch.late(Instant::now())
        {
            return Err(late);
        }
        Ok(())
    }

    /// A child ended. Killed, it is the reason for whatever the others say; otherwise those who
    /// said something before know better.
    fn judge_end(
        &self,
        rank: usize,
        status: &std::io::Result<std::process::ExitStatus>,
    ) -> FleetError {
        let how = spawn::describe(status);
        let oom = self.oom_kills.cause().filter(|_| spawn::signal(status) == Some(9));
        let why = oom.map_or_else(String::new, |cause| format!(" {cause}"));
        let cause = format!("{how}{why} ({})", self.whereabouts(rank));
        let ended = FleetError::worker(rank, cause);
        if spawn::signal(status).is_some() { ended } else { self.who_spoke().unwrap_or(ended) }
    }

    /// The first rank that said itself why it failed.
    fn who_spoke(&self) -> Option<FleetError> {
        let mut all = self.suspects.iter();
        all.find_map(|one| Some(FleetError::worker(one.rank, one.said.clone()?)))
    }

    fn whereabouts(&self, rank: usize) -> String {
        let last = self.watch.last(rank);
        match self.workers.get(rank) {
            Some(worker) => format!("process {}, {last}", worker.pid),
            None => last,
        }
    }

    fn rank_of(&self, connection: Connection) -> Option<usize> {
        self.peers
            .iter()
            .position(|peer| peer.as_ref().is_some_and(|(known, _)| *known == connection))
    }
}

/// Worlds are small; an index that is no `u32` cannot occur.
pub(crate) fn rank_id(rank: usize) -> Rank {
    Rank(u32::try_from(rank).unwrap_or(u32::MAX))
}
