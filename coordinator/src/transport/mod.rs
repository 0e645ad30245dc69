//! Connections of clients, whatever front they ask: accepted within bounds, decrypted, told apart
//! by protocol, and served by a router.
//!
//! Every event of an answer is a frame of its body, which hyper writes, over HTTP/1.1, HTTP/2 and
//! TLS alike. A front brings an [`axum::Router`]; what a request means is the front's. A
//! handler finds its [`ClientState`] among the extensions of the request.

mod access;
mod answer_body;
mod client_state;
mod config;
mod connection;
mod connections;
mod held_body;
mod protocol;
mod received_body;
mod request_body;
mod socket;
mod tls;

pub use access::{Access, AccessDenied, AccessError, AccessGuard, AllowedHost, AllowedOrigin};
pub use client_state::ClientState;
pub use config::TransportConfig;
pub use received_body::{BodyLimits, BodyMemory, BodyRefusal, ReceivedBody};
pub use tls::{Tls, TlsError, TlsFiles};

use axum::Router;
use connections::Connections;
use std::io;
use std::pin::pin;
use std::sync::Arc;

/// Accepts connections on `listener` until `shutdown` is ready. Then answers that are being written
/// have [`TransportConfig::linger`] to end, and what is left is cut off.
///
/// When `draining` is ready, connections that are open then end after their current answers, so
/// that clients go elsewhere. New ones are served, since somebody may ask how it stands.
///
/// # Errors
/// When `listener` cannot be used at all.
pub async fn serve(
    listener: std::net::TcpListener,
    router: Router,
    config: TransportConfig,
    draining: impl Future<Output = ()>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = connections::listener(listener)?;
    let linger = config.linger;
    let mut connections = Connections::new(router, Arc::new(config));
    let (mut draining, mut shutdown) = (pin!(draining), pin!(shutdown));
    let mut drains = false;
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = &mut draining, if !drains => {
                drains = true;
                connections.end_open();
            }
            () = connections.handle_next(&listener) => {}
        }
    }
    drop(listener);
    connections.end_open();
    connections.close(linger).await;
    Ok(())
}
