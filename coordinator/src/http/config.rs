//! Settings of the HTTP front: who may ask, and bounds, each against a client that would take more.

use super::access::Access;
use crate::report::{Report, Verbosity};
use std::time::Duration;

/// Settings of the HTTP front.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Who may ask besides those who always may.
    pub access: Access,
    /// Where the operator is told of fields that nobody knows.
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
    /// longest; while all have one, it waits to be accepted.
    pub connections_max: usize,
    /// For the head of a request, from its first byte.
    pub head_timeout: Duration,
    /// For the body of a request.
    pub body_timeout: Duration,
    /// A connection without a request ends after this.
    pub idle_timeout: Duration,
    /// A write that makes no progress for this long ends the connection, and so does a peer that
    /// acknowledges nothing.
    pub write_timeout: Duration,
    /// A stream that is silent for this long gets a comment, so that a vanished peer is noticed.
    pub comment_interval: Duration,
    /// After `shutdown`, how long answers may still be written.
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

/// Descriptors that are left for workers, files and whatever else a process has open.
const DESCRIPTORS_KEPT: u64 = 128;

impl HttpConfig {
    /// As many connections as so many descriptors allow.
    #[must_use]
    pub fn within(self, descriptors: u64) -> Self {
        let most = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_KEPT).max(1));
        let connections_max = self.connections_max.min(most.unwrap_or(usize::MAX));
        Self { connections_max, ..self }
    }
}
