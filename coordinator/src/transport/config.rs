//! Bounds of connections: for everything that a client can take before a front sees a request.

use super::tls::Tls;
use std::time::Duration;

/// Bounds of the connections of a front.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// What connections are encrypted with, if they are.
    pub tls: Option<Tls>,
    /// Bytes of a request's head.
    pub head_bytes_max: usize,
    /// Header lines of a request.
    pub headers_max: usize,
    /// Connections at the same time. One more ends the connection that has been without a request
    /// longest. While all have a request, it waits to be accepted.
    pub connections_max: usize,
    /// Requests at the same time on a connection of HTTP/2.
    pub streams_max: u32,
    /// Requests on a connection of HTTP/2 that their client may have taken back before they were
    /// looked at.
    pub resets_max: usize,
    /// Bytes of a request's body that a client of HTTP/2 may send ahead.
    pub stream_window_bytes: u32,
    /// The same for all requests of a connection together.
    pub connection_window_bytes: u32,
    /// How long the head of a request may take, from its first byte, and the handshake of TLS.
    pub head_timeout: Duration,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// How long a write may make no progress, and a peer acknowledge nothing.
    pub write_timeout: Duration,
    /// Bytes of a request that is refused that are read and dropped, because a client that is still
    /// writing would not see the answer.
    pub drain_bytes_max: usize,
    /// How long they may take.
    pub drain_timeout: Duration,
    /// How long answers may still be written after the shutdown.
    pub linger: Duration,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            tls: None,
            head_bytes_max: 32 << 10,
            headers_max: 100,
            connections_max: 4096,
            streams_max: 1024,
            resets_max: 100,
            stream_window_bytes: 256 << 10,
            connection_window_bytes: 1 << 20,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            drain_bytes_max: 16 << 20,
            drain_timeout: Duration::from_secs(30),
            linger: Duration::from_secs(2),
        }
    }
}

/// Descriptors that are kept for workers, files and everything else that is not a connection.
const DESCRIPTORS_KEPT: u64 = 128;

impl TransportConfig {
    /// The same settings, with no more connections than so many descriptors allow.
    #[must_use]
    pub fn within(self, descriptors: u64) -> Self {
        let most = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_KEPT).max(1));
        let connections_max = self.connections_max.min(most.unwrap_or(usize::MAX));
        Self { connections_max, ..self }
    }
}
