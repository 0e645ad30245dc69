//! What all handlers share.

use super::config::HttpConfig;
use super::unknown_fields::UnknownFields;
use crate::front::Core;
use crate::transport::BodyMemory;
use std::sync::Arc;

/// What all handlers share.
#[derive(Debug)]
pub(super) struct AppState {
    pub(super) core: Core,
    pub(super) config: Arc<HttpConfig>,
    pub(super) body_memory: BodyMemory,
    pub(super) unknown_fields: UnknownFields,
}
