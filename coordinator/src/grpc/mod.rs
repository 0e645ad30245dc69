//! The gRPC front: services over the request core, beside HTTP.
//!
//! It only translates: ranges and queues are the core's, tokens the serve loop's, connections those
//! of [`crate::transport`]. Every call passes the same layers, outermost first: who may ask
//! ([`guard`]), how long the call may take ([`deadline`]), and its message, read whole within
//! bounds ([`receive`]).

mod config;
mod date;
mod deadline;
mod guard;
mod health;
mod receive;
mod request_ids;
mod status;
#[cfg(test)]
mod tests;
mod vllm;

pub use config::GrpcConfig;

use crate::front::{Front, FrontContext};
use crate::transport::{self, AccessGuard, BodyMemory};
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use binfer_proto::CLIENT_DESCRIPTORS;
use binfer_proto::client::grpc::health::v1::health_server::HealthServer;
use binfer_proto::client::vllm::grpc::engine::vllm_engine_server::VllmEngineServer;
use guard::Guard;
use health::HealthService;
use receive::Receiving;
use std::io;
use std::sync::Arc;
use tonic::server::NamedService;
use tonic::service::Routes;
use vllm::VllmService;

/// Bytes of a message to the reflection service, which names a file or a symbol.
const REFLECTION_BYTES_MAX: usize = 16 << 10;

/// The gRPC front on `listener`, for the table of fronts.
pub fn front(listener: std::net::TcpListener, config: GrpcConfig) -> Front {
    Front { name: "gRPC", serve: Box::new(|context| Box::pin(serve(listener, context, config))) }
}

/// Serves `listener` until the cluster is over, as [`transport::serve`] does.
///
/// # Errors
/// When `listener` cannot be used at all.
pub async fn serve(
    listener: std::net::TcpListener,
    context: FrontContext,
    config: GrpcConfig,
) -> io::Result<()> {
    let is_local = listener.local_addr()?.ip().to_canonical().is_loopback();
    let receiving =
        Receiving { limits: config.message, memory: BodyMemory::new(config.message_memory_bytes) };
    let guard = Guard { access: AccessGuard::new(config.access, is_local), keys: config.keys };
    let router = services(&context, config.message.bytes_max)?
        .layer(from_fn_with_state(Arc::new(receiving), receive::whole))
        .layer(from_fn(deadline::limited))
        .layer(from_fn_with_state(Arc::new(guard), guard::admitted));
    let core = context.core.clone();
    let draining = async move { core.until_draining().await };
    transport::serve(listener, router, config.transport, draining, context.closed()).await
}

/// The services that clients find.
fn services(context: &FrontContext, message_bytes_max: usize) -> io::Result<Router> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(CLIENT_DESCRIPTORS)
        .build_v1()
        .map_err(io::Error::other)?
        .max_decoding_message_size(REFLECTION_BYTES_MAX);
    let names = [VllmEngineServer::<VllmService>::NAME];
    let health = HealthServer::new(HealthService::new(context, &names));
    let vllm = VllmEngineServer::new(VllmService::new(context.clone()))
        .max_decoding_message_size(message_bytes_max);
    let routes = Routes::new(health).add_service(reflection).add_service(vllm);
    Ok(routes.prepare().into_axum_router())
}

/// Whether a call is for the health of the server, which needs no key.
fn is_for_health(path: &str) -> bool {
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    service.is_some_and(|(service, _)| service == HealthServer::<HealthService>::NAME)
}
