//! Settings of the gRPC front: who may ask, and a bound for everything that a client can take.

use crate::front::ApiKeys;
use crate::transport::{Access, BodyLimits, TransportConfig};
use std::sync::Arc;
use std::time::Duration;

/// Settings of the gRPC front.
#[derive(Clone, Debug)]
pub struct GrpcConfig {
    /// Hosts and origins that may ask besides those that always may.
    pub access: Access,
    /// Keys, one of which every call but those for health must show.
    pub keys: Arc<ApiKeys>,
    /// Bounds of a call's message. A client that sends several may take as long for all of them.
    pub message: BodyLimits,
    /// Bytes that the messages of all calls may take until they are tokenised.
    pub message_memory_bytes: usize,
    /// Bounds of connections.
    pub transport: TransportConfig,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            access: Access::default(),
            keys: Arc::default(),
            message: BodyLimits { bytes_max: 4 << 20, timeout: Duration::from_secs(30) },
            message_memory_bytes: 256 << 20,
            transport: TransportConfig::default(),
        }
    }
}
