//! Settings of the HTTP front: who may ask, and a bound for everything that a client can take.

use super::access::Access;
use crate::report::{Report, Verbosity};
use std::time::Duration;

/// Settings of the HTTP front.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Hosts and origins that may ask besides those that always may.
    pub access: Access,
    /// Tells the operator of unknown fields.
    pub report: Report,
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Bytes that bodies above 64 KiB may take together until they are tokenised.
    pub body_memory_bytes: usize,
    /// Bytes of a request's head.
    pub head_bytes_max: usize,
    /// Header lines of a request.
    pub headers_max: usize,
    /// Connections at the same time. One more ends the connection that has been without a request
    /// longest. While all have a request, it waits to be accepted.
    pub connections_max: usize,
    /// How long the head of a request may take, from its first byte.
    pub head_timeout: Duration,
    /// How long the body of a request may take.
    pub body_timeout: Duration,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// How long a write may make no progress, and a peer acknowledge nothing.
    pub write_timeout: Duration,
    /// How long a stream may be silent until it gets a comment, which shows whether the peer is
    /// there.
    pub comment_interval: Duration,
    /// How long answers may still be written after the shutdown.
    pub linger: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            access: Access::default(),
            report: Report::new(Verbosity::Quiet),
            body_bytes_max: 4 << 20,
            body_memory_bytes: 256 << 20,
            head_bytes_max: 32 << 10,
            headers_max: 100,
            connections_max: 4096,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            comment_interval: Duration::from_secs(15),
            linger: Duration::from_secs(2),
        }
    }
}

/// Descriptors that are kept for workers, files and everything else that is not a connection.
const DESCRIPTORS_KEPT: u64 = 128;

impl HttpConfig {
    /// The same settings, with no more connections than so many descriptors allow.
    #[must_use]
    pub fn within(self, descriptors: u64) -> Self {
        let most = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_KEPT).max(1));
        let connections_max = self.connections_max.min(most.unwrap_or(usize::MAX));
        Self { connections_max, ..self }
    }
}
