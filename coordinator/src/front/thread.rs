//! A front's own thread, whose end stops the serve loop, however it ends.

use super::ServeCommand;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::sync::{mpsc, oneshot};

/// Runs `front` on a thread. The receiver gets what it returns; an error if it panicked.
///
/// # Errors
/// When the system has no thread to give.
pub fn start<T: Send + 'static>(
    front: impl FnOnce() -> T + Send + 'static,
    commands: mpsc::Sender<ServeCommand>,
) -> std::io::Result<oneshot::Receiver<T>> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name("front".into()).spawn(move || {
        match catch_unwind(AssertUnwindSafe(front)) {
            Ok(value) => drop(done.send(value)),
            Err(_) => drop(done),
        }
        let _ = commands.blocking_send(ServeCommand::Stop);
    })?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_front_that_panics_stops_the_serve_loop_like_one_that_returns() {
        let (send, mut commands) = mpsc::channel(1);
        assert_eq!(start(|| 7, send.clone()).unwrap().await, Ok(7));
        assert!(matches!(commands.recv().await, Some(ServeCommand::Stop)));
        let panicked = start(|| -> u8 { panic!("of the test") }, send).unwrap();
        assert!(panicked.await.is_err());
        assert!(matches!(commands.recv().await, Some(ServeCommand::Stop)));
    }
}
