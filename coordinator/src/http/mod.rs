//! The HTTP front: OpenAI's API over the request core.
//!
//! It only translates: ranges and queues are the core's, tokens the serve loop's, connections those
//! of [`crate::transport`]. Each wait for a client is bounded ([`HttpConfig`]). There is no
//! log of what is asked and answered.

mod answer;
mod app_state;
mod chat_message;
mod chunk_frame;
mod chunk_writer;
mod config;
mod endpoint;
mod error;
mod field_names;
mod full_response;
mod guarded;
mod json;
mod json_lists;
mod json_numbers;
mod json_shallow;
mod keys;
mod logprobs;
mod refused_field_table;
mod refused_fields;
mod request;
mod request_body;
mod request_id;
mod request_objects;
mod routes;
mod server_routes;
mod sse;
#[cfg(test)]
mod tests;
mod unknown_fields;

pub use config::HttpConfig;

use crate::front::{Core, Front, GenerateRequest, ModelInfo};
use crate::transport;
use axum::middleware::from_fn;
use endpoint::Endpoint;
use std::future::Future;
use std::io;
use std::sync::Arc;
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

/// Serves `listener` until `shutdown` is ready, as [`transport::serve`] does.
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
    let is_local = listener.local_addr()?.ip().to_canonical().is_loopback();
    let config = Arc::new(config);
    let body_memory = transport::BodyMemory::new(config.body_memory_bytes);
    let unknown_fields = UnknownFields::new(config.report.clone());
    let app = app_state::AppState {
        core: core.clone(),
        config: config.clone(),
        body_memory,
        unknown_fields,
    };
    let router = routes::router(Arc::new(app), Arc::clone(&config.keys));
    let router = guarded::guarded(router, config.access.clone(), is_local);
    let router = router.layer(from_fn(request_id::carry));
    let draining = async move { core.until_draining().await };
    transport::serve(listener, router, config.transport.clone(), draining, shutdown).await
}
