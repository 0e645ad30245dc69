//! The one loop: events in, plans out. One thread that never waits for a peer or a client.
//!
//! Everything that can happen to a running server is one [`ServeEvent`]; what is done about it is a few
//! calls of the scheduler, the text stage and the fronts. Deliberately absent: decisions (they are
//! the scheduler's), text (the text stage's) and sockets (the fleet's and the fronts').

use std::time::{Duration, Instant};

use binfer_proto::StepResult;
use tokio::sync::mpsc;
use tokio::time::Interval;

use crate::fleet::{Fleet, FleetError};
use crate::front::{FailKind, Readers, ServeCommand, Submit};
use crate::meter::StepMeter;
use crate::sched::{Delivery, Finish, RequestId, Scheduler, Tick};
use crate::text::TextStage;

/// How often deadlines, readers that left and unread text are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Everything that can happen.
#[derive(Debug)]
enum ServeEvent {
    Submit(Box<Submit>),
    Cancel(RequestId),
    Stepped(StepResult),
    Tick,
    WorkerLost(FleetError),
    Stop,
}

/// What the loop works with.
#[derive(Debug)]
pub struct ServeLoop {
    /// Decides.
    pub sched: Scheduler,
    /// Tokens to text.
    pub text: TextStage,
    /// Readers.
    pub readers: Readers,
    /// Workers.
    pub fleet: Fleet,
    /// From the fronts.
    pub commands: mpsc::Receiver<ServeCommand>,
    /// How long running requests may go on after `Stop`.
    pub drain: Duration,
    /// Takes the cost of each step, where somebody wants to know it.
    pub meter: Option<StepMeter>,
}

/// Clock and ticker of a running loop.
struct Time {
    start: Instant,
    ticks: Interval,
    /// Set by `Stop`: when draining ends.
    drained: Option<Instant>,
}

impl ServeLoop {
    /// Runs until every request after a `Stop` is done, or the fleet is lost. Workers still live
    /// when it returns.
    pub async fn run(&mut self) -> Result<(), FleetError> {
        let ticks = tokio::time::interval(TICK);
        let mut time = Time { start: Instant::now(), ticks, drained: None };
        loop {
            match self.next_event(&mut time).await {
                ServeEvent::Submit(submit) => self.submit(*submit),
                ServeEvent::Cancel(id) => self.cancel(id),
                ServeEvent::Stepped(result) => {
                    if let Some(meter) = &mut self.meter {
                        meter.stepped(result.rows.len());
                    }
                    self.stepped(&result)?;
                }
                ServeEvent::Tick => self.look_after_readers(),
                ServeEvent::WorkerLost(error) => return self.lost(error),
                ServeEvent::Stop => {
                    self.sched.drain();
                    time.drained.get_or_insert_with(|| Instant::now() + self.drain);
                }
            }
            self.send_plans(&time)?;
            self.readers.send();
            if let Some(drained) = time.drained
                && (self.sched.is_idle() || Instant::now() >= drained)
            {
                self.give_up(FailKind::Shutdown, "the server is shutting down");
                return Ok(());
            }
        }
    }

    async fn next_event(&mut self, time: &mut Time) -> ServeEvent {
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
            _ = time.ticks.tick() => ServeEvent::Tick,
        }
    }

    fn send_plans(&mut self, time: &Time) -> Result<(), FleetError> {
        let now = Tick(u64::try_from(time.start.elapsed().as_millis()).unwrap_or(u64::MAX));
        while self.fleet.has_room()
            && let Some(plan) = self.sched.plan(now)
        {
            let hash =
                self.sched.plan_hash(plan.step).ok_or_else(|| defect("a plan without hash"))?;
            self.fleet.send(&plan, hash);
        }
        for delivery in self.sched.take_expired() {
            self.deliver(&delivery);
        }
        Ok(())
    }

    fn submit(&mut self, submit: Submit) {
        let Submit { request, stop, read_counter } = submit;
        let id = request.id;
        let answer = self.sched.submit(request);
        if answer.is_ok() {
            self.text.open(id, &stop);
        }
        self.readers.admit(id, read_counter, answer);
    }

    fn stepped(&mut self, result: &StepResult) -> Result<(), FleetError> {
        match self.sched.absorb(result) {
            Ok(deliveries) => deliveries.iter().for_each(|delivery| self.deliver(delivery)),
            Err(error) => return self.lost(defect(&error.to_string())),
        }
        Ok(())
    }

    fn deliver(&mut self, delivery: &Delivery) {
        let id = delivery.id;
        let pushed = self.text.push(delivery);
        self.readers.logprobs(id, &delivery.logprobs);
        self.readers.text(id, pushed.text);
        if pushed.stop {
            let usage = self.sched.finish(id, Finish::StopString).unwrap_or(delivery.usage);
            self.readers.done(id, Finish::StopString, usage);
        } else {
            let Some(finish) = delivery.finish else { return };
            self.readers.done(id, finish, delivery.usage);
        }
        self.text.close(id);
    }

    fn cancel(&mut self, id: RequestId) {
        if let Some(usage) = self.sched.finish(id, Finish::Cancelled) {
            self.readers.done(id, Finish::Cancelled, usage);
            self.text.close(id);
        }
    }

    /// Frees what belongs to readers that left, and of those that keep too much unread.
    fn look_after_readers(&mut self) {
        while let Some(id) = self.readers.abandoned() {
            self.sched.finish(id, Finish::Cancelled);
            self.readers.fail(id, FailKind::Internal, "the reader left");
            self.text.close(id);
        }
        while let Some(id) = self.readers.slowest() {
            self.sched.finish(id, Finish::Cancelled);
            self.readers.fail(id, FailKind::SlowReader, "the client reads too slowly");
            self.text.close(id);
        }
    }

    fn lost(&mut self, error: FleetError) -> Result<(), FleetError> {
        self.give_up(FailKind::WorkerLost, &error.to_string());
        Err(error)
    }

    fn give_up(&mut self, kind: FailKind, message: &str) {
        self.sched.abort_all();
        self.readers.fail_all(kind, message);
    }
}

/// Coordinator and workers disagree although every rank agrees with every other: a bug of ours.
fn defect(cause: &str) -> FleetError {
    FleetError::Defect(format!("defect in the coordinator: {cause}"))
}
