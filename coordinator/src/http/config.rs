//! Settings of the HTTP front: who may ask, and a bound for everything that a client can take.

use crate::front::ApiKeys;
use crate::report::{Report, Verbosity};
use crate::transport::{Access, TransportConfig};
use std::sync::Arc;
use std::time::Duration;

/// Settings of the HTTP front.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Hosts and origins that may ask besides those that always may.
    pub access: Access,
    /// Keys of which a request shows one, if there are any.
    pub keys: Arc<ApiKeys>,
    /// Tells the operator of unknown fields.
    pub report: Report,
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Bytes that bodies above 64 KiB may take together until they are tokenised.
    pub body_memory_bytes: usize,
    /// How long the body of a request may take.
    pub body_timeout: Duration,
    /// How long a stream may be silent until it gets a comment, which shows whether the peer is
    /// there.
    pub comment_interval: Duration,
    /// Bounds of connections.
    pub transport: TransportConfig,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            access: Access::default(),
            keys: Arc::default(),
            report: Report::new(Verbosity::Quiet),
            body_bytes_max: 4 << 20,
            body_memory_bytes: 256 << 20,
            body_timeout: Duration::from_secs(30),
            comment_interval: Duration::from_secs(15),
            transport: TransportConfig::default(),
        }
    }
}
