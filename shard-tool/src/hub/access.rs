//! The hub, and the cache in front of it.

use std::path::PathBuf;

use super::client::HubClient;
use super::{HubError, HubSettings};

/// The hub, and the cache in front of it.
#[derive(Debug)]
pub struct Hub {
    pub(super) client: HubClient,
    pub(super) cache: PathBuf,
    /// The variable that forbids asking the hub.
    pub(super) offline: Option<&'static str>,
}

impl Hub {
    /// Checks the settings. Nothing is asked of the hub yet.
    ///
    /// # Errors
    /// [`HubError::Unfit`] for an endpoint or certificates that cannot be used.
    pub fn new(settings: &HubSettings) -> Result<Self, HubError> {
        let client = HubClient::new(settings)?;
        Ok(Self { client, cache: settings.cache.clone(), offline: settings.offline })
    }
}
