//! Models by id, from a hub that a test runs.

mod cache;
mod faults;
mod shared;

use std::fs;
use std::path::{Path, PathBuf};

use binfer_shard::hub::{Hub, HubError, HubSettings, ModelId};

use crate::hub_server::{HubServer, REPOSITORY};
use crate::scratch;

const WEIGHTS: &str = "model.safetensors";

/// A cache of its own, and a client of the server.
struct Client {
    cache: PathBuf,
    settings: HubSettings,
}

impl Client {
    fn new(server: &HubServer, test: &str) -> Self {
        let cache = scratch(&format!("hub-{test}"));
        let _ = fs::remove_dir_all(&cache);
        let settings = HubSettings {
            endpoint: server.endpoint.clone(),
            cache: cache.clone(),
            token: Some("secret".into()),
            offline: None,
            roots_pem: None,
            proxy: None,
        };
        Self { cache, settings }
    }

    fn hub(&self) -> Hub {
        Hub::new(&self.settings).unwrap()
    }

    fn pull(&self) -> Result<PathBuf, HubError> {
        self.hub().pull(&id(), &|_| {})
    }

    fn repository(&self) -> PathBuf {
        self.cache.join("models--some-org--tiny.model")
    }

    /// Names in `blobs`.
    fn blobs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.repository().join("blobs")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

fn id() -> ModelId {
    ModelId::parse(REPOSITORY).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny").join(name)
}

/// What a fault says of requests to the storage that begin there.
fn storage_asked_from(start: usize) -> String {
    format!("GET /m.gguf HTTP/1.1 bytes={start}-")
}

fn ranges(server: &HubServer) -> Vec<String> {
    let from_storage = server.seen().into_iter().filter(|seen| seen.by_storage);
    from_storage.filter_map(|seen| seen.range).collect()
}
