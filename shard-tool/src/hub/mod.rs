//! Models from the Hugging Face hub, by id, through the cache that its own library keeps.
//!
//! | module | is |
//! |---|---|
//! | `id` | `ORG/NAME`, `ORG/NAME:TAG`, revisions; which paths from outside are plain |
//! | `select` | pure: which files serving needs |
//! | `listing` | what the hub says of a model and its files |
//! | `client` | HTTP: redirects, token, what a status means |
//! | `retry` | what is tried again, and when |
//! | `cache` | the cache's layout on disk |
//! | `cached` | what the cache has of a model, and what may be missing |
//! | `download`, `partial` | pieces of files over several connections; files on their way |
//! | `remote` | settings and headers alone, before anything is downloaded |
//!
//! Plain threads, a handful a download. Deliberately absent: uploads, data sets, the Xet protocol
//! (the hub serves the same bytes over HTTP), and the environment: settings are arguments.

mod cache;
mod cached;
mod client;
mod download;
mod error;
mod id;
mod listing;
mod partial;
mod remote;
mod retry;
mod select;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

pub use cached::HubModel;
pub use error::HubError;
pub use id::ModelId;
pub use ureq::{Proxy, ProxyProtocol};

use crate::hf;
use cache::{Locked, Repository};
use cached::Cached;
use client::HubClient;
use download::{Counter, Download};
use listing::Listing;
use partial::{Partial, RemoteFile, is_whole};
use select::{Wanted, WeightFiles, wanted};

/// Most files of one model.
const FILES_MAX: usize = 10_000;

/// How to reach the hub, and where its files are kept. Paths and texts of the variables that are
/// named, checked when the hub is opened.
#[derive(Clone)]
pub struct HubSettings {
    /// `HF_ENDPOINT`: the hub, or a mirror.
    pub endpoint: String,
    /// `HF_HUB_CACHE`: the folder of repositories.
    pub cache: PathBuf,
    /// `HF_TOKEN`; shown to the endpoint alone.
    pub token: Option<String>,
    /// The variable that says that nothing is asked of the hub, if one does.
    pub offline: Option<&'static str>,
    /// Content of `SSL_CERT_FILE`: roots to trust instead of Mozilla's.
    pub roots_pem: Option<Vec<u8>>,
    /// What `HTTPS_PROXY` and its kin say.
    pub proxy: Option<Proxy>,
}

/// Without the token, and without the password that an endpoint may hold.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("HubSettings");
        shown.field("endpoint", &client::shown(&self.endpoint)).field("cache", &self.cache);
        shown.field("offline", &self.offline).finish_non_exhaustive()
    }
}

/// What whoever watches a download is told, by any of its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownloadEvent {
    /// Another process is downloading the same model; its end is awaited.
    Waiting,
    /// Some of it was there already, and counts as done.
    Found {
        /// Of all files that serving needs.
        bytes_done: u64,
        /// Bytes of those files.
        bytes_total: u64,
    },
    /// Some of it arrived; the numbers are as in `Found`.
    Progress {
        /// Of all files that serving needs.
        bytes_done: u64,
        /// Bytes of those files.
        bytes_total: u64,
    },
}

/// The hub and the cache before it.
#[derive(Debug)]
pub struct Hub {
    client: HubClient,
    cache: PathBuf,
    offline: Option<&'static str>,
}

impl Hub {
    /// Checks the settings; nothing is asked yet.
    ///
    /// # Errors
    /// [`HubError::Unfit`] for an endpoint or certificates that cannot be.
    pub fn new(settings: &HubSettings) -> Result<Self, HubError> {
        let client = HubClient::new(settings)?;
        Ok(Self { client, cache: settings.cache.clone(), offline: settings.offline })
    }

    /// The model's folder or GGUF file: out of the cache where that has all of it, else fetched.
    ///
    /// # Errors
    /// As [`Self::pull`]; [`HubError::Offline`] when the cache lacks it and nothing may be asked.
    pub fn model(
        &self,
        id: &ModelId,
        watch: &(dyn Fn(DownloadEvent) + Sync),
    ) -> Result<HubModel, HubError> {
        match self.lookup(id) {
            Cached::Complete(path) => Ok(HubModel { path, note: None }),
            Cached::Unconfirmed(unconfirmed) => Ok(self.complete(id, unconfirmed, watch)),
            Cached::Missing(_) => Ok(HubModel { path: self.pull(id, watch)?, note: None }),
        }
    }

    /// The model's folder or GGUF file, if the cache has enough of it to serve.
    #[must_use]
    pub fn cached(&self, id: &ModelId) -> Option<PathBuf> {
        match self.lookup(id) {
            Cached::Complete(path) => Some(path),
            Cached::Unconfirmed(unconfirmed) => Some(unconfirmed.path),
            Cached::Missing(_) => None,
        }
    }

    /// Asks the hub, fetches what the cache lacks, and returns the model's folder or GGUF file. When
    /// nothing may be asked, what the cache has is all there is.
    ///
    /// # Errors
    /// Every kind; see [`HubError`].
    pub fn pull(
        &self,
        id: &ModelId,
        watch: &(dyn Fn(DownloadEvent) + Sync),
    ) -> Result<PathBuf, HubError> {
        if self.offline.is_some()
            && let Some(path) = self.cached(id)
        {
            return Ok(path);
        }
        self.refuse_offline(id)?;
        let found = Listing::of(&self.client, id)?;
        let repository = Repository::new(&self.cache, id);
        let locked = repository.lock(|| watch(DownloadEvent::Waiting))?;
        let (texts, weights) = self.files(&found, &locked)?;
        let bytes = |files: &[RemoteFile]| files.iter().map(|file| file.bytes).sum::<u64>();
        let counter = Counter::new(watch, bytes(&texts) + bytes(&weights));
        // Weights last: a snapshot that has them is whole.
        for files in [&texts, &weights] {
            self.fetch(&found, &locked, files, &counter)?;
        }
        locked.set_commit(&id.revision, &found.commit)?;
        let snapshot = repository.snapshot(&found.commit);
        if texts.is_empty() {
            return Ok(snapshot.join(&weights[0].name));
        }
        let absent = |name: &&str| !found.paths.iter().any(|path| path == name);
        let absent: Vec<&str> = hf::SERVED.iter().copied().filter(absent).collect();
        let noted = repository.note_absent(&found.commit, &absent);
        noted.map_err(HubError::cache(&snapshot)).map(|()| snapshot)
    }

    /// The files that serving needs: small ones, then weights. A GGUF model has the latter only.
    fn files(
        &self,
        found: &Listing<'_>,
        locked: &Locked<'_>,
    ) -> Result<(Vec<RemoteFile>, Vec<RemoteFile>), HubError> {
        match wanted(found.id, &found.paths)? {
            Wanted::Gguf(parts) => Ok((Vec::new(), found.describe(&parts)?)),
            Wanted::Folder { texts, weights: WeightFiles::One } => {
                let weights = found.describe(&[hf::WEIGHTS.to_owned()])?;
                Ok((found.describe(&texts)?, weights))
            }
            Wanted::Folder { texts, weights: WeightFiles::Indexed } => {
                let texts = found.describe(&texts)?;
                let index = texts.iter().filter(|file| file.name == hf::INDEX);
                let index: Vec<RemoteFile> = index.cloned().collect();
                self.fetch(found, locked, &index, &Counter::new(&|_| {}, 0))?;
                let path = locked.repository.snapshot(&found.commit).join(hf::INDEX);
                let names = hf::index_files(&path)
                    .map_err(|error| HubError::Unfit(format!("{}: {error}", found.id)))?;
                if names.len() > FILES_MAX {
                    let cause = format!("{}: weights in {} files", found.id, names.len());
                    return Err(HubError::Unfit(cause));
                }
                Ok((texts, found.describe(&names)?))
            }
        }
    }

    /// Fetches what is missing of `files` and links all of them into the snapshot.
    fn fetch(
        &self,
        found: &Listing<'_>,
        locked: &Locked<'_>,
        files: &[RemoteFile],
        counter: &Counter<'_>,
    ) -> Result<(), HubError> {
        let mut missing: BTreeMap<&str, Partial<'_>> = BTreeMap::new();
        for file in files {
            if is_whole(&locked.repository.blob(&file.etag), file.bytes) {
                counter.found(file.bytes);
            } else if missing.contains_key(file.etag.as_str()) {
                counter.found(file.bytes); // the same content under another name
            } else {
                missing.insert(&file.etag, Partial::open(file, &locked.blobs)?);
            }
        }
        let url = |name: &str| found.url(name);
        let mut partials: Vec<Partial<'_>> = missing.into_values().collect();
        partials.sort_by_key(|partial| partial.remote().name.clone());
        Download { client: &self.client, url: &url, counter }.run(partials)?;
        files.iter().try_for_each(|file| locked.link(&found.commit, &file.name, &file.etag))
    }
}
