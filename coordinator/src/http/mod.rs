//! The HTTP front: OpenAI's API over the request core.
//!
//! It only translates: ranges and queues are the core's, tokens the serve loop's. Each wait for a
//! client is bounded ([`HttpConfig`]). There is no TLS and there are no keys, which are a proxy's
//! work, no HTTP/2, and no log of what is asked and answered.

mod access;
mod answer;
mod chat_message;
mod chunk_frame;
mod client_state;
mod config;
mod connection;
mod connections;
mod endpoint;
mod error;
mod field_names;
mod full_response;
mod json;
mod json_lists;
mod json_numbers;
mod json_shallow;
mod logprobs;
mod refused_field_table;
mod refused_fields;
mod request;
mod request_body;
mod request_objects;
mod routes;
mod socket;
mod sse;
#[cfg(test)]
mod tests;
mod unknown_fields;

pub use access::{Access, AccessError, AllowedHost, AllowedOrigin};
pub use config::HttpConfig;

use crate::front::{Core, Front, GenerateRequest, ModelInfo};
use connections::Connections;
use endpoint::Endpoint;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::watch;
use unknown_fields::UnknownFields;

/// The core's request that the body of a completion, or of a chat, asks for; `None` where it is
/// refused. For fuzzing, without a server.
pub fn read_body(chat: bool, body: &[u8], served: &ModelInfo) -> Option<GenerateRequest> {
    let endpoint = if chat { Endpoint::Chat } else { Endpoint::Completion };
    request::parse(endpoint, body, served).ok().map(|parsed| parsed.generate)
}

/// The HTTP front on `listener`, for the table of fronts.
pub fn front(listener: std::net::TcpListener, config: HttpConfig) -> Front {
    Front {
        name: "HTTP",
        serve: Box::new(|context| {
            Box::pin(serve(listener, context.core.clone(), config, context.closed()))
        }),
    }
}

/// Accepts connections on `listener` until `shutdown` is ready. Then answers that are being written
/// have [`HttpConfig::linger`] to end, and what is left is cut off.
///
/// While requests finish, [`crate::front::Readiness`] refuses new ones; `shutdown` comes after
/// that.
///
/// # Errors
/// When `listener` cannot be used at all.
pub async fn serve(
    listener: std::net::TcpListener,
    core: Core,
    config: HttpConfig,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = connections::listener(listener)?;
    let config = Arc::new(config);
    let body_memory = request_body::BodyMemory::new(config.body_memory_bytes);
    let unknown_fields = UnknownFields::new(config.report.clone());
    let app = routes::AppState { core, config: config.clone(), body_memory, unknown_fields };
    let router = routes::router(Arc::new(app));
    let is_local = listener.local_addr()?.ip().to_canonical().is_loopback();
    let router = access::guarded(router, config.access.clone(), is_local);
    let (stop, stopped) = watch::channel(false);
    let mut connections = Connections::new(router, Arc::clone(&config), stopped);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = connections.handle_next(&listener) => {}
        }
    }
    drop(listener);
    // Nobody listens if no connection is open.
    let _ = stop.send(true);
    connections.close(config.linger).await;
    Ok(())
}
