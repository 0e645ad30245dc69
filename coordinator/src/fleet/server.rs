//! The gRPC server that the workers dial in to.
//!
//! Every message of every worker goes into one channel, tagged with its connection. What a message
//! leads to is decided where the channel is read.

use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};

use binfer_proto::MESSAGE_BYTES_MAX;
use binfer_proto::cluster::cluster_server::{Cluster, ClusterServer};
use binfer_proto::cluster::{Down, Up, down, up};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::error::FleetError;
use super::rendezvous::Rendezvous;
use super::socket::WorkerSocket;

/// A worker's connection; connections are numbered as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionId(u64);

/// What the channel brings.
#[derive(Debug)]
pub(super) enum FleetEvent {
    /// A peer opened a stream; messages for it go into `down`.
    Attached { connection: ConnectionId, down: Downlink },
    /// A peer sent a message.
    Message { connection: ConnectionId, message: up::Message },
    /// A stream ended.
    Closed { connection: ConnectionId },
    /// A child process ended.
    Exited { rank: usize, status: std::io::Result<ExitStatus> },
}

/// Sends messages down to one worker.
#[derive(Clone, Debug)]
pub(super) struct Downlink(UnboundedSender<Result<Down, Status>>);

impl Downlink {
    /// Sends a message. A failure is ignored, since a lost stream is reported as `Closed`.
    pub(super) fn send(&self, message: down::Message) {
        let _ = self.0.send(Ok(Down { message: Some(message) }));
    }
}

/// Starts to accept workers on the current runtime.
pub(super) fn listen(
    rendezvous: &Rendezvous,
    events: UnboundedSender<FleetEvent>,
) -> Result<(), FleetError> {
    let listener = rendezvous.listener();
    let listener = listener.map_err(|error| FleetError::System(format!("listening: {error}")))?;
    let service = ClusterServer::new(ClusterService { events, connections: AtomicU64::new(0) })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = tonic::transport::Server::builder().add_service(service);
    // The server ends with the runtime. A failure to accept shows as workers that do not dial in.
    let sockets = UnixListenerStream::new(listener).map(|socket| WorkerSocket::new(socket?));
    tokio::spawn(server.serve_with_incoming(sockets));
    Ok(())
}

struct ClusterService {
    events: UnboundedSender<FleetEvent>,
    connections: AtomicU64,
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    type AttachStream = UnboundedReceiverStream<Result<Down, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<Up>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let connection = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed));
        let (down, outgoing): (_, UnboundedReceiver<_>) = unbounded_channel();
        let events = self.events.clone();
        let gone = |_| Status::unavailable("the coordinator is shutting down");
        events.send(FleetEvent::Attached { connection, down: Downlink(down) }).map_err(gone)?;
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(up)) = incoming.next().await {
                let Some(message) = up.message else { continue };
                if events.send(FleetEvent::Message { connection, message }).is_err() {
                    return;
                }
            }
            let _ = events.send(FleetEvent::Closed { connection });
        });
        Ok(Response::new(UnboundedReceiverStream::new(outgoing)))
    }
}
