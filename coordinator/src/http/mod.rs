//! The HTTP front: OpenAI's API over the request core.
//!
//! It translates and nothing else: ranges and queues are the core's, tokens the serve loop's. Each
//! wait for a client is bounded ([`Config`]). Deliberately absent: TLS and keys (a proxy's work),
//! HTTP/2, and logs of what is asked and answered.

mod answer;
mod body;
mod config;
mod connection;
mod error;
mod fields;
mod logprobs;
mod request;
mod routes;
mod socket;
mod sse;
#[cfg(test)]
mod tests;
mod unsupported;

pub use config::Config;

use crate::front::Core;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Accepts on `listener` until `shutdown` is ready. Then no connection is accepted, answers that
/// are being written have [`Config::linger`] to end, and what is left is cut.
///
/// Refusing new requests while old ones finish is not this: that is [`crate::front::Readiness`].
///
/// # Errors
/// When `listener` cannot be used at all.
pub async fn serve(
    listener: std::net::TcpListener,
    core: Core,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let config = Arc::new(config);
    let large_bodies = Semaphore::new(config.large_bodies_max);
    let courier = core.clone();
    let app = routes::App { core, config: config.clone(), large_bodies };
    let router = routes::router(Arc::new(app));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut delivering = JoinSet::new();
    delivering.spawn(async move { courier.deliver().await });
    let mut shutdown = pin!(shutdown);
    loop {
        let full = connections.len() >= config.connections_max;
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            socket = accept(&listener), if !full => {
                let (router, config) = (router.clone(), config.clone());
                connections.spawn(connection::serve(socket, router, config, stopped.clone()));
            }
        }
    }
    drop(listener);
    // Nobody listens if no connection is open.
    let _ = stop.send(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(config.linger, all_ended).await;
    connections.shutdown().await;
    Ok(())
}

/// The next connection. Errors of `accept` are those of one client, or pass (no descriptors left).
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => return socket,
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
