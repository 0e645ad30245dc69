//! How fronts are started: what each gets, and the table of those that serve the network.

use super::core::Core;
use super::info::Readiness;
use std::io;
use std::panic::resume_unwind;
use std::pin::Pin;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a front works with.
#[derive(Clone, Debug)]
pub struct FrontContext {
    /// Takes requests.
    pub core: Core,
    /// Whether requests would be served.
    pub readiness: watch::Receiver<Readiness>,
    /// Turns true when the cluster is over.
    pub closing: watch::Receiver<bool>,
}

impl FrontContext {
    /// Waits until requests are taken. False if the cluster ended before that.
    pub async fn wait_until_ready(&mut self) -> bool {
        let settled =
            self.readiness.wait_for(|state| !matches!(state, Readiness::Starting(_))).await;
        settled.is_ok_and(|state| *state == Readiness::Ready)
    }

    /// Waits until the cluster is over. A front then writes what it has and returns.
    pub async fn closed(mut self) {
        let _ = self.closing.wait_for(|closing| *closing).await;
    }
}

/// A front that serves clients over the network. Each protocol's folder makes its own.
pub struct Front {
    /// The protocol, for messages.
    pub name: &'static str,
    /// Serves clients until the cluster is over.
    pub serve: Box<dyn FnOnce(FrontContext) -> Serving + Send>,
}

type Serving = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Serves with all `fronts` until the cluster is over.
///
/// # Errors
/// The first error of a front, which ends the others.
pub async fn serve_all(fronts: Vec<Front>, context: FrontContext) -> io::Result<()> {
    let mut running = JoinSet::new();
    for Front { name, serve } in fronts {
        let serving = serve(context.clone());
        running.spawn(async move {
            serving.await.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))
        });
    }
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(outcome) => outcome?,
            Err(error) => resume_unwind(error.into_panic()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn front<S>(name: &'static str, serve: fn(FrontContext) -> S) -> Front
    where
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        Front { name, serve: Box::new(move |context| Box::pin(serve(context))) }
    }

    async fn until_closed(context: FrontContext) -> io::Result<()> {
        context.closed().await;
        Ok(())
    }

    #[tokio::test]
    async fn fronts_serve_side_by_side_until_the_cluster_is_over() {
        let (context, close) = testing::context(Vec::new());
        let both = vec![front("one", until_closed), front("two", until_closed)];
        let serving = tokio::spawn(serve_all(both, context));
        tokio::task::yield_now().await;
        assert!(!serving.is_finished());
        close.send_replace(true);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_front_that_fails_is_named_and_ends_the_others() {
        let (context, _close) = testing::context(Vec::new());
        let taken = |_| async { Err(io::ErrorKind::AddrInUse.into()) };
        let error = serve_all(vec![front("one", until_closed), front("two", taken)], context)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with("two: "), "{error}");
    }
}
