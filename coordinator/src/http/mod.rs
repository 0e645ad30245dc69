//! The HTTP front: OpenAI's API over the request core.
//!
//! It translates and nothing else: ranges and queues are the core's, tokens the serve loop's. Each
//! wait for a client is bounded ([`Config`]). Deliberately absent: TLS and keys (a proxy's work),
//! HTTP/2, and logs of what is asked and answered.

mod access;
mod answer;
mod body;
mod client;
mod config;
mod connection;
mod connections;
mod error;
mod foreign;
mod foreign_names;
mod glance;
mod json;
mod lists;
mod logprobs;
mod message;
mod names;
mod numbers;
mod request;
mod routes;
mod socket;
mod sse;
mod strangers;
#[cfg(test)]
mod tests;
mod whole;

pub use access::{Access, AccessError, AllowedHost, AllowedOrigin};
pub use config::Config;

use crate::front::{Core, Generate, ModelInfo};
use answer::Kind;
use connections::Connections;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use strangers::Strangers;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the body of a completion, or of a chat, asks of the core; `None` where it is refused. For
/// whoever tries bodies without a server.
pub fn read_body(chat: bool, body: &[u8], served: &ModelInfo) -> Option<Generate> {
    let kind = if chat { Kind::Chat } else { Kind::Completion };
    request::parse(kind, body, served).ok().map(|parsed| parsed.ask)
}

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
    let listener = connections::listener(listener)?;
    let config = Arc::new(config);
    let body_memory = body::Memory::new(config.body_memory_bytes);
    let courier = core.clone();
    let strangers = Strangers::new(config.report.clone());
    let app = routes::App { core, config: config.clone(), body_memory, strangers };
    let router = routes::router(Arc::new(app));
    let is_local = listener.local_addr()?.ip().to_canonical().is_loopback();
    let router = access::guarded(router, config.access.clone(), is_local);
    let (stop, stopped) = watch::channel(false);
    let mut connections = Connections::new(router, Arc::clone(&config), stopped);
    let mut delivering = JoinSet::new();
    delivering.spawn(async move { courier.deliver().await });
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = connections.turn(&listener) => {}
        }
    }
    drop(listener);
    // Nobody listens if no connection is open.
    let _ = stop.send(true);
    connections.close(config.linger).await;
    Ok(())
}
