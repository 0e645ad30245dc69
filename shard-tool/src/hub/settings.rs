//! How the hub is reached, and where its files are kept.

use std::fmt;
use std::path::PathBuf;

use ureq::Proxy;

/// How to reach the hub, and where to keep its files. These are the values of the environment
/// variables that the fields name. They are checked when the hub is opened.
#[derive(Clone)]
pub struct HubSettings {
    /// `HF_ENDPOINT`: the URL of the hub, or of a mirror.
    pub endpoint: String,
    /// `HF_HUB_CACHE`: the folder of repositories.
    pub cache: PathBuf,
    /// `HF_TOKEN`: the token, which only the endpoint is shown.
    pub token: Option<String>,
    /// The variable that forbids asking the hub. `None` if asking is allowed.
    pub offline: Option<&'static str>,
    /// The content of `SSL_CERT_FILE`: the roots to trust instead of Mozilla's.
    pub roots_pem: Option<Vec<u8>>,
    /// The proxy that `HTTPS_PROXY` and similar variables name.
    pub proxy: Option<Proxy>,
}

/// Shows neither the token nor a password within the endpoint.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("HubSettings");
        shown.field("endpoint", &without_password(&self.endpoint)).field("cache", &self.cache);
        shown.field("offline", &self.offline).finish_non_exhaustive()
    }
}

/// A URL, or a part of one, without the name and password that may stand before its host.
pub(super) fn without_password(url: &str) -> &str {
    url.rsplit('@').next().unwrap_or_default()
}
