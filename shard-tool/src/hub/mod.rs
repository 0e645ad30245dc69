//! Models from the Hugging Face hub, by id, through the cache that its own library keeps.
//!
//! | module | holds |
//! |---|---|
//! | `settings`, `access` | how the hub is reached; the opened hub |
//! | `id` | `ORG/NAME`, `ORG/NAME:TAG`, revisions; which paths from outside are plain |
//! | `select` | which files serving needs (pure) |
//! | `listing` | what the hub says of a model and its files |
//! | `client` | HTTP: redirects, token, the meaning of a status |
//! | `retry`, `concurrent` | what is tried again, and when; several connections at once |
//! | `cache` | the cache's layout on disk |
//! | `cached` | what the cache has of a model, and what may be missing |
//! | `pull`, `fetch` | a model by its id; files of a commit |
//! | `download`, `partial` | pieces of files over several connections; unfinished files |
//! | `progress` | how many bytes are done, and who is told |
//! | `remote` | settings and headers alone, before anything is downloaded |
//!
//! A download uses a handful of plain threads. Uploads, data sets and the Xet protocol are absent:
//! the hub serves the same bytes over HTTP. The environment is not read here: settings are
//! arguments.

mod access;
mod cache;
mod cached;
mod client;
mod concurrent;
mod download;
mod error;
mod fetch;
mod id;
mod listing;
mod partial;
mod progress;
mod pull;
mod remote;
mod retry;
mod select;
mod settings;

pub use access::Hub;
pub use cached::HubModel;
pub use error::HubError;
pub use id::ModelId;
pub use progress::DownloadEvent;
pub use settings::HubSettings;
pub use ureq::{Proxy, ProxyProtocol};
