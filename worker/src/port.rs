//! The engine thread's side of the link.

use std::sync::{Arc, Mutex, mpsc};

use anyhow::Result;
use binfer_proto::cluster::{Failed, Up, down, up};
use tokio::sync::mpsc::UnboundedSender;

use crate::backend::Abort;
use crate::progress::StepProgress;

/// What the engine thread hears and says.
pub struct EnginePort {
    /// Messages from the coordinator.
    pub down: mpsc::Receiver<down::Message>,
    /// Messages to the coordinator.
    pub up: UnboundedSender<Up>,
    /// Where the engine is.
    pub progress: Arc<StepProgress>,
    /// Filled once there is a communicator to give up.
    pub abort: Arc<Mutex<Option<Abort>>>,
}

impl EnginePort {
    /// The next message; `None` once the link is closed.
    pub fn next(&self) -> Option<down::Message> {
        self.down.recv().ok()
    }

    /// Sends a message up. Where the link is closed the process ends anyway.
    pub fn send(&self, message: up::Message) {
        let _ = self.up.send(Up { message: Some(message) });
    }

    /// Passes an outcome on. The coordinator is told of a failure first, with where the engine was.
    pub fn told<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            self.send(failed(&self.progress, format!("{error:#}")));
        }
        outcome
    }
}

/// The message that reports a failure of the engine.
pub fn failed(progress: &StepProgress, cause: String) -> up::Message {
    let at = progress.snapshot();
    up::Message::Failed(Failed { operation: at.operation(), step: at.step_launched, cause })
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::progress::Operation;

    #[test]
    fn a_failure_is_told_with_step_and_operation_and_a_success_is_not() {
        let (up, mut told) = unbounded_channel();
        let progress = Arc::new(StepProgress::default());
        let (down, abort) = (mpsc::channel().1, Arc::default());
        let port = EnginePort { down, up, progress: Arc::clone(&progress), abort };
        assert_eq!(port.told(Ok(3)).unwrap(), 3);
        assert!(told.try_recv().is_err());
        progress.launched(9);
        progress.enter(Operation::Down, Some(2));
        let error = anyhow::anyhow!("out of memory").context("step 9");
        assert!(port.told::<()>(Err(error)).is_err());
        let Ok(Up { message: Some(up::Message::Failed(failed)) }) = told.try_recv() else {
            panic!("nothing was told");
        };
        assert_eq!((failed.step, failed.operation.as_str()), (9, "layers.2.ffn.down"));
        assert_eq!(failed.cause, "step 9: out of memory");
    }
}
