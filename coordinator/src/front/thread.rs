//! A front's own thread, runtime and dispatcher of updates. The front's end, however it comes,
//! stops the serve loop.

use super::command::ServeCommand;
use super::core::Core;
use super::servers::FrontContext;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

/// Runs `front` on a thread of its own, beside the dispatcher. The receiver gets what it returns;
/// an error if it panicked.
///
/// # Errors
/// When the system has no thread, or no event queue, to give.
pub fn start<T: Send + 'static>(
    context: FrontContext,
    commands: mpsc::Sender<ServeCommand>,
    front: impl AsyncFnOnce(FrontContext) -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (done, result) = oneshot::channel();
    let runtime = runtime()?;
    let run = move || {
        let core = context.core.clone();
        block_on(runtime, &core, front(context))
    };
    std::thread::Builder::new().name("front".into()).spawn(move || {
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(value) => drop(done.send(value)),
            Err(_) => drop(done),
        }
        let _ = commands.blocking_send(ServeCommand::Stop);
    })?;
    Ok(result)
}

/// Runs `front` on this thread, beside the dispatcher.
///
/// # Errors
/// When the system has no event queue to give.
pub fn run<T>(core: &Core, front: impl Future<Output = T>) -> io::Result<T> {
    Ok(block_on(runtime()?, core, front))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn block_on<T>(runtime: Runtime, core: &Core, front: impl Future<Output = T>) -> T {
    let core = core.clone();
    // A task of its own, so that an update does not poll the front itself.
    let dispatcher = runtime.spawn(async move { core.dispatch_updates().await });
    let value = runtime.block_on(async {
        tokio::select! {
            value = front => value,
            Err(panicked) = dispatcher => resume_unwind(panicked.into_panic()),
        }
    });
    // Dropping the runtime would wait for prompts that are being tokenised, though nobody asks for
    // them any more.
    runtime.shutdown_background();
    value
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, greedy, say};
    use super::super::{Prompt, StreamEvent};
    use super::*;

    #[tokio::test]
    async fn a_front_hears_the_answer_to_its_request_on_its_own_thread() {
        let (context, _close) = testing::context(vec![vec![say("text")]]);
        let (send, _commands) = mpsc::channel(1);
        let front = async |context: FrontContext| {
            let request = greedy(Prompt::Text("hello".into()));
            context.core.generate(request).await.unwrap().next().await
        };
        let heard = start(context, send, front).unwrap().await;
        assert_eq!(heard, Ok(StreamEvent::Text(testing::content("text"))));
    }

    #[tokio::test]
    async fn a_front_that_panics_stops_the_serve_loop_like_one_that_returns() {
        let (send, mut commands) = mpsc::channel(1);
        let (context, _close) = testing::context(Vec::new());
        let returned = start(context.clone(), send.clone(), async |_| 7).unwrap();
        assert_eq!(returned.await, Ok(7));
        assert!(matches!(commands.recv().await, Some(ServeCommand::Stop)));
        let panicked = start(context, send, async |_| -> u8 { panic!("of the test") }).unwrap();
        assert!(panicked.await.is_err());
        assert!(matches!(commands.recv().await, Some(ServeCommand::Stop)));
    }
}
