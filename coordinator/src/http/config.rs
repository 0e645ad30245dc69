//! Bounds of the HTTP front, each against a client that would take more.

use std::time::Duration;

/// Bounds of the HTTP front.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Bodies above 64 KiB that are read at the same time; more are refused.
    pub large_bodies_max: usize,
    /// Bytes of a request's head.
    pub head_bytes_max: usize,
    /// Header lines of a request.
    pub headers_max: usize,
    /// Connections at the same time; more wait to be accepted.
    pub connections_max: usize,
    /// For the head of a request, and for a connection without one.
    pub head_timeout: Duration,
    /// For the body of a request.
    pub body_timeout: Duration,
    /// A write that makes no progress for this long ends the connection, and so does a peer that
    /// acknowledges nothing.
    pub write_timeout: Duration,
    /// A stream that is silent for this long gets a comment, so that a vanished peer is noticed.
    pub comment_interval: Duration,
    /// After `shutdown`, how long answers may still be written.
    pub linger: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_bytes_max: 4 << 20,
            large_bodies_max: 32,
            head_bytes_max: 32 << 10,
            headers_max: 100,
            connections_max: 4096,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            comment_interval: Duration::from_secs(15),
            linger: Duration::from_secs(2),
        }
    }
}
