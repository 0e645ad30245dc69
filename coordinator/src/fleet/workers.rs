//! The running workers: plans go down, results come up, and a lost rank is an error.

use std::time::{Duration, Instant};

use binfer_proto::cluster::{Hello, Stop, down, up};
use binfer_proto::{HashedPlan, Masks, STEPS_IN_FLIGHT_MAX, StepResult};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Interval;

use super::aggregator::ResultAggregator;
use super::config::{FleetConfig, Spawn};
use super::error::{FleetError, failure_text};
use super::rank::rank_id;
use super::rendezvous::Rendezvous;
use super::server::{self, ConnectionId, Downlink, FleetEvent};
use super::spawn::{self, Worker, WorkerProgram};
use super::suspects::Suspects;
use super::watchdog::Watchdog;
use crate::memory::{KernelFiles, OomKills};

/// How long workers may take to end by themselves.
const WORKER_EXIT_GRACE: Duration = Duration::from_millis(1000);

/// The workers of one replica.
#[derive(Debug)]
pub struct Fleet {
    pub(super) config: FleetConfig,
    events: UnboundedReceiver<FleetEvent>,
    /// The child processes by rank; empty where somebody else started the workers.
    workers: Vec<Worker>,
    /// How many of the child processes have ended.
    ended: usize,
    /// Connections that have not sent `Hello`.
    unidentified: Vec<(ConnectionId, Downlink)>,
    /// The workers' connections by rank.
    pub(super) peers: Vec<Option<(ConnectionId, Downlink)>>,
    aggregator: ResultAggregator,
    pub(super) watchdog: Watchdog,
    tick: Interval,
    suspects: Suspects,
    oom_kills: OomKills,
    /// Rank and microseconds of each result since the last [`Fleet::take_step_times`].
    step_times: Vec<(usize, u64)>,
    /// Where workers dial in; `None` once all have.
    pub(super) rendezvous: Option<Rendezvous>,
}

impl Fleet {
    /// Listens and starts the processes.
    pub(super) fn launch(config: FleetConfig, rendezvous: Rendezvous) -> Result<Self, FleetError> {
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
            suspects: Suspects::default(),
            step_times: Vec::new(),
            oom_kills: OomKills::from_now_on(KernelFiles::here()),
            rendezvous: Some(rendezvous),
        })
    }

    /// Whether another plan may go out.
    pub fn has_room(&self) -> bool {
        self.aggregator.in_flight() < STEPS_IN_FLIGHT_MAX
    }

    /// Broadcasts a plan. Never waits: streams hold two plans at most.
    pub fn send(&mut self, HashedPlan { plan, hash }: &HashedPlan) {
        self.aggregator.sent(plan.epoch, plan.step, *hash);
        self.watchdog.set_busy(true, Instant::now());
        self.broadcast(&down::Message::Plan(plan.into()));
    }

    /// Sends the masks of the plan that was sent last.
    pub fn send_masks(&mut self, masks: &Masks) {
        self.broadcast(&down::Message::Masks(masks.into()));
    }

    /// Waits for the next step on which all ranks agree. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<StepResult, FleetError> {
        loop {
            let (rank, message) = self.receive().await?;
            let up::Message::Result(result) = message else {
                return Err(FleetError::worker(rank, "sent something that is not a result"));
            };
            let result = StepResult::try_from(result)
                .map_err(|error| FleetError::worker(rank, error.to_string()))?;
            if result.rank != rank_id(rank) {
                return Err(FleetError::worker(rank, format!("calls itself rank {}", result.rank)));
            }
            let now = Instant::now();
            self.watchdog.progressed(rank, now);
            self.step_times.push((rank, result.step_us.into()));
            let agreed = self.aggregator.take(rank, result)?;
            self.watchdog.set_busy(self.aggregator.in_flight() > 0, now);
            if let Some(result) = agreed {
                return Ok(result);
            }
        }
    }

    /// Ranks, and how long they took for the steps since the last call [us].
    pub fn take_step_times(&mut self) -> impl Iterator<Item = (usize, u64)> {
        self.step_times.drain(..)
    }

    /// Ends all workers: asks them, waits for a second, then kills them.
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

    pub(super) fn broadcast(&self, message: &down::Message) {
        for (_, down) in self.peers.iter().flatten() {
            down.send(message.clone());
        }
    }

    /// Waits for the next message of a rank that is not a heartbeat. Dropping the future loses
    /// nothing.
    pub(super) async fn receive(&mut self) -> Result<(usize, up::Message), FleetError> {
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
                        self.suspects.closed(rank);
                    }
                }
                Some(FleetEvent::Exited { rank, status }) => {
                    self.ended += 1;
                    return Err(self.cause_of_loss(rank, &status));
                }
                None => return Err(FleetError::Defect("the workers' server has ended".into())),
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
        self.watchdog.heard_from(rank, Instant::now());
        match message {
            up::Message::Beat(beat) => self.watchdog.heartbeat(rank, beat, Instant::now()),
            up::Message::Failed(failed) => self.suspects.failed(rank, failure_text(&failed)),
            other => return Ok(Some((rank, other))),
        }
        Ok(None)
    }

    /// Takes the first message of a connection. A `Hello` of this cluster gets a rank; the
    /// connection of anything else is cut off without an answer.
    fn accept_hello(
        &mut self,
        connection: ConnectionId,
        message: up::Message,
    ) -> Option<(usize, up::Message)> {
        let index = self.unidentified.iter().position(|(known, _)| *known == connection)?;
        let (_, down) = self.unidentified.swap_remove(index);
        let up::Message::Hello(hello) = message else { return None };
        let rank = self.rank_for(&hello)?;
        let free = self.peers.get_mut(rank).filter(|peer| peer.is_none())?;
        *free = Some((connection, down));
        Some((rank, up::Message::Hello(hello)))
    }

    /// The rank that a worker asks for, or the first free one; `None` for a worker of another
    /// cluster.
    fn rank_for(&self, hello: &Hello) -> Option<usize> {
        let instance = self.rendezvous.as_ref().map(Rendezvous::instance);
        if instance != Some(hello.instance.as_str()) {
            return None;
        }
        match hello.wanted_rank {
            Some(rank) => usize::try_from(rank).ok(),
            None => self.peers.iter().position(Option::is_none),
        }
    }

    fn check_deadlines(&mut self) -> Result<(), FleetError> {
        if let Some(rank) = self.suspects.due() {
            let cause = format!("closed its connection ({})", self.last_seen(rank));
            let closed = FleetError::worker(rank, cause);
            return Err(self.suspects.reported_cause().unwrap_or(closed));
        }
        if self.peers.iter().all(Option::is_some)
            && let Some(lost) = self.watchdog.check(Instant::now())
        {
            return Err(lost);
        }
        Ok(())
    }

    /// The cause of the loss after a child process ended. A worker that was killed is the cause.
    /// Otherwise the first worker that reported an error is.
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
        match spawn::signal(status) {
            Some(_) => ended,
            None => self.suspects.reported_cause().unwrap_or(ended),
        }
    }

    /// What is known of a rank for messages: its process and its last heartbeat.
    fn last_seen(&self, rank: usize) -> String {
        let last = self.watchdog.last_heartbeat(rank);
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
