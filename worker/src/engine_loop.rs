//! The engine thread's main loop: the handshake, then steps in order until the link closes.
//!
//! A device works on one step while the next plan is packed and launched. The CPU is done when
//! `launch` returns.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::{Result, bail};
use binfer_proto::Plan;
use binfer_proto::cluster::{Ready, down, up};

use crate::engine::Engine;
use crate::handshake;
use crate::port::EnginePort;
use crate::step_queue::StepQueue;

/// How often the device is asked whether it is done, while no plan comes.
const POLL: Duration = Duration::from_micros(20);

/// Runs the engine until the link closes.
pub fn run(port: &EnginePort) -> Result<()> {
    let Some(mut engine) = handshake::run(port)? else { return Ok(()) };
    port.told(run_steps(port, &mut engine))
}

/// Captures CUDA graphs, says that the rank is ready, and runs steps.
fn run_steps(port: &EnginePort, engine: &mut Engine) -> Result<()> {
    engine.capture_graphs()?;
    engine.warm_up()?;
    let (rank, memory, notes) = (engine.rank().0, engine.ledger(), engine.notes());
    port.send(up::Message::Ready(Ready { rank, memory, notes }));
    let mut steps = StepQueue::new(engine);
    loop {
        if let Some(result) = steps.advance()? {
            port.send(up::Message::Result((&result).into()));
            continue;
        }
        let message = if steps.are_in_flight() {
            port.down.recv_timeout(POLL)
        } else {
            port.down.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match message {
            Ok(down::Message::Plan(plan)) => {
                steps.plan(Plan::try_from(plan)?)?;
            }
            Ok(down::Message::Masks(masks)) => steps.masks(masks.into())?,
            Ok(other) => bail!("unexpected message: {}", name(&other)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let report = steps.end()?;
    if !report.is_empty() {
        binfer_console::lines(&report);
    }
    Ok(())
}

fn name(message: &down::Message) -> &'static str {
    match message {
        down::Message::Welcome(_) => "welcome",
        down::Message::Load(_) => "load",
        down::Message::Comm(_) => "comm",
        down::Message::Allocate(_) => "allocate",
        down::Message::Plan(_) => "plan",
        down::Message::Masks(_) => "masks",
        down::Message::Reset(_) => "reset (not in this version)",
        down::Message::Stop(_) => "stop",
    }
}
