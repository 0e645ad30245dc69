//! The one loop: events in, plans out. One thread that never waits for a peer or a client.
//!
//! Everything that can happen to a running server is one [`ServeEvent`], and is answered by a few
//! calls of the scheduler, the text stage and the readers. The scheduler decides, the text stage
//! makes text, and sockets belong to the fleet and the fronts.

use std::time::{Duration, Instant};

use binfer_proto::StepResult;
use tokio::sync::mpsc;
use tokio::time::Interval;

use crate::fleet::{Fleet, FleetError};
use crate::front::{FailKind, Readers, ServeCommand, Submit};
use crate::load_meter::LoadMeter;
use crate::meter::StepMeter;
use crate::metrics::RequestMeter;
use crate::sched::{Delivery, Finish, RequestId, Scheduler, Tick};
use crate::text::{Pushed, TextEnd, TextStage};

/// How often deadlines, readers that left and unread text are checked.
const TICK_INTERVAL: Duration = Duration::from_millis(50);

/// Everything that can happen to a running server.
#[derive(Debug)]
enum ServeEvent {
    Submit(Box<Submit>),
    Cancel(RequestId),
    Stepped(StepResult),
    Tick,
    WorkerLost(FleetError),
    Stop,
}

/// The serve loop and what it works with.
#[derive(Debug)]
pub struct ServeLoop {
    /// Decides what each step runs.
    pub sched: Scheduler,
    /// Makes text of tokens.
    pub text: TextStage,
    /// Hears what happens to each request.
    pub readers: Readers,
    /// Runs steps on the workers.
    pub fleet: Fleet,
    /// Commands of the fronts.
    pub commands: mpsc::Receiver<ServeCommand>,
    /// How long running requests may go on after [`ServeCommand::Stop`].
    pub drain: Duration,
    /// Tells the fronts what the load is.
    pub load: LoadMeter,
    /// Measures requests and steps while the server runs.
    pub requests: RequestMeter,
    /// Measures the cost of each step, for `binfer bench coordinator`.
    pub meter: Option<StepMeter>,
}

/// Clock and ticker of a running loop.
struct LoopClock {
    start: Instant,
    ticks: Interval,
    /// When draining ends. Set by [`ServeCommand::Stop`].
    drain_end: Option<Instant>,
}

impl ServeLoop {
    /// Runs until every request after a `Stop` is done, or the fleet is lost. Workers still live
    /// when it returns.
    pub async fn run(&mut self) -> Result<(), FleetError> {
        let ticks = tokio::time::interval(TICK_INTERVAL);
        let mut clock = LoopClock { start: Instant::now(), ticks, drain_end: None };
        loop {
            match self.next_event(&mut clock).await {
                ServeEvent::Submit(submit) => self.submit(*submit),
                ServeEvent::Cancel(id) => self.cancel(id),
                ServeEvent::Stepped(result) => {
                    if let Some(meter) = &mut self.meter {
                        meter.stepped(result.rows.len());
                    }
                    self.load.stepped(result.rows.len());
                    for (rank, step_us) in self.fleet.take_step_times() {
                        self.requests.metrics().step(rank, step_us);
                    }
                    self.stepped(&result)?;
                }
                ServeEvent::Tick => {
                    self.cut_off_readers();
                    self.load.tell(&self.sched.stats());
                }
                ServeEvent::WorkerLost(error) => return self.lost(error),
                ServeEvent::Stop => {
                    self.sched.drain();
                    clock.drain_end.get_or_insert_with(|| Instant::now() + self.drain);
                }
            }
            self.send_plans(&clock);
            self.readers.send();
            if let Some(drain_end) = clock.drain_end
                && (self.sched.is_idle() || Instant::now() >= drain_end)
            {
                self.fail_all(FailKind::Shutdown, "the server is shutting down");
                return Ok(());
            }
        }
    }

    async fn next_event(&mut self, clock: &mut LoopClock) -> ServeEvent {
        tokio::select! {
            biased;
            stepped = self.fleet.next() => match stepped {
                Ok(result) => ServeEvent::Stepped(result),
                Err(error) => ServeEvent::WorkerLost(error),
            },
            command = self.commands.recv(), if !self.commands.is_closed() => match command {
                Some(ServeCommand::Submit(submit)) => ServeEvent::Submit(submit),
                Some(ServeCommand::Cancel(id)) => ServeEvent::Cancel(id),
                Some(ServeCommand::Stop) | None => ServeEvent::Stop,
            },
            _ = clock.ticks.tick() => ServeEvent::Tick,
        }
    }

    fn send_plans(&mut self, clock: &LoopClock) {
        let now = Tick(u64::try_from(clock.start.elapsed().as_millis()).unwrap_or(u64::MAX));
        while self.fleet.has_room()
            && let Some(plan) = self.sched.plan(now)
        {
            self.fleet.send(&plan);
            if let Some(masks) = self.sched.take_masks() {
                self.fleet.send_masks(&masks);
            }
        }
        for delivery in self.sched.take_expired() {
            self.deliver(&delivery);
        }
    }

    fn submit(&mut self, submit: Submit) {
        let Submit { request, text, is_chat, read_counter } = submit;
        let id = request.id;
        let parser = self.text.parser(is_chat, &request.prompt);
        let prompt_tokens = request.prompt.len();
        let answer = self.sched.submit(request);
        if answer.is_ok() {
            self.load.submitted(prompt_tokens);
            self.requests.submitted(id, prompt_tokens);
            self.text.open(id, text, parser);
        }
        self.readers.admit(id, read_counter, answer);
    }

    fn stepped(&mut self, result: &StepResult) -> Result<(), FleetError> {
        match self.sched.absorb(result) {
            Ok(deliveries) => {
                let now = Instant::now();
                for delivery in &deliveries {
                    self.requests.tokens(delivery.id, delivery.tokens.len(), now);
                    self.deliver(delivery);
                }
            }
            Err(error) => return self.lost(defect(&error.to_string())),
        }
        Ok(())
    }

    fn deliver(&mut self, delivery: &Delivery) {
        let id = delivery.id;
        let pushed = self.text.push(delivery);
        self.readers.tokens(id, &delivery.tokens, delivery.usage);
        self.readers.logprobs(id, &delivery.logprobs);
        self.readers.text(id, pushed.text);
        let Pushed { stop, end, .. } = pushed;
        if let Some(stop) = stop {
            let finish = Finish::StopString(stop);
            let usage = self.sched.finish(id, finish).unwrap_or(delivery.usage);
            self.requests.ended(id, finish);
            self.readers.done(id, finish, usage, end);
        } else {
            let Some(finish) = delivery.finish else { return };
            self.requests.ended(id, finish);
            self.readers.done(id, finish, delivery.usage, end);
        }
        self.text.close(id);
    }

    fn cancel(&mut self, id: RequestId) {
        if let Some(usage) = self.sched.finish(id, Finish::Cancelled) {
            self.requests.ended(id, Finish::Cancelled);
            self.readers.done(id, Finish::Cancelled, usage, TextEnd::default());
            self.text.close(id);
        }
    }

    /// Ends the requests of readers that left, and of those that leave too much unread.
    fn cut_off_readers(&mut self) {
        while let Some(id) = self.readers.abandoned() {
            self.sched.finish(id, Finish::Cancelled);
            self.requests.ended(id, Finish::Cancelled);
            self.readers.fail(id, FailKind::Internal, "the reader left");
            self.text.close(id);
        }
        while let Some(id) = self.readers.slowest() {
            self.sched.finish(id, Finish::Cancelled);
            self.requests.ended(id, Finish::Cancelled);
            self.readers.fail(id, FailKind::SlowReader, "the client reads too slowly");
            self.text.close(id);
        }
    }

    fn lost(&mut self, error: FleetError) -> Result<(), FleetError> {
        self.fail_all(FailKind::WorkerLost, &error.to_string());
        Err(error)
    }

    fn fail_all(&mut self, kind: FailKind, message: &str) {
        self.sched.abort_all();
        self.readers.fail_all(kind, message);
    }
}

/// Coordinator and workers disagree although all ranks agree. That is a bug of binfer.
fn defect(cause: &str) -> FleetError {
    FleetError::Defect(format!("defect in the coordinator: {cause}"))
}
