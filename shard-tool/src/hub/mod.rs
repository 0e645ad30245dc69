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
//! | `download`, `partial` | pieces of files over several connections; files on their way |
//! | `remote` | settings and headers alone, before anything is downloaded |
//!
//! Plain threads, a handful a download. Deliberately absent: uploads, data sets, the Xet protocol
//! (the hub serves the same bytes over HTTP), and the environment: settings are arguments.

mod cache;
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
use std::sync::atomic::AtomicU64;

pub use error::HubError;
pub use id::ModelId;
pub use ureq::Proxy;

use crate::hf;
use cache::Repository;
use client::Client;
use download::{Counter, Download};
use listing::Listing;
use partial::{Partial, RemoteFile, is_whole};
use select::{Wanted, Weights, wanted};

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
    /// `HF_HUB_OFFLINE`: nothing is asked of the hub.
    pub offline: bool,
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
pub enum Event {
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
    client: Client,
    cache: PathBuf,
    offline: bool,
}

impl Hub {
    /// Checks the settings; nothing is asked yet.
    ///
    /// # Errors
    /// [`HubError::Unfit`] for an endpoint or certificates that cannot be.
    pub fn new(settings: &HubSettings) -> Result<Self, HubError> {
        let client = Client::new(settings)?;
        Ok(Self { client, cache: settings.cache.clone(), offline: settings.offline })
    }

    /// The model's folder or GGUF file: out of the cache where that has all of it, else fetched.
    ///
    /// # Errors
    /// As [`Self::pull`]; [`HubError::Offline`] when the cache lacks it and nothing may be asked.
    pub fn model(&self, id: &ModelId, watch: &(dyn Fn(Event) + Sync)) -> Result<PathBuf, HubError> {
        match self.cached(id) {
            Some(path) => Ok(path),
            None => self.pull(id, watch),
        }
    }

    /// The model's folder or GGUF file, if the cache has all of it. Whether the one GGUF file there
    /// is the one that the repository would give, only the hub knows, where it may be asked.
    #[must_use]
    pub fn cached(&self, id: &ModelId) -> Option<PathBuf> {
        let repository = Repository::new(&self.cache, id);
        let commit = repository.commit(&id.revision)?;
        let files = repository.files(&commit);
        let snapshot = repository.snapshot(&commit);
        match wanted(id, &files).ok()? {
            Wanted::Gguf(_) if id.tag.is_none() && !self.offline => None,
            Wanted::Gguf(parts) => Some(snapshot.join(&parts[0])),
            Wanted::Folder { texts, weights } => {
                let index = snapshot.join(hf::INDEX);
                let whole = weights == Weights::One
                    || hf::index_files(&index).is_ok_and(|names| {
                        names.iter().all(|name| files.binary_search(name).is_ok())
                    });
                let tokenizer = texts.iter().any(|text| text == "tokenizer.json");
                (whole && tokenizer).then_some(snapshot)
            }
        }
    }

    /// Asks the hub, fetches what the cache lacks, and returns the model's folder or GGUF file. When
    /// nothing may be asked, what the cache has is all there is.
    ///
    /// # Errors
    /// Every kind; see [`HubError`].
    pub fn pull(&self, id: &ModelId, watch: &(dyn Fn(Event) + Sync)) -> Result<PathBuf, HubError> {
        if self.offline
            && let Some(path) = self.cached(id)
        {
            return Ok(path);
        }
        self.refuse_offline(id)?;
        let found = Listing::of(&self.client, id)?;
        let repository = Repository::new(&self.cache, id);
        let _lock = repository.lock(|| watch(Event::Waiting))?;
        let (texts, weights) = self.files(&found, &repository)?;
        let bytes = |files: &[RemoteFile]| files.iter().map(|file| file.bytes).sum::<u64>();
        let bytes_total = bytes(&texts) + bytes(&weights);
        let counter = Counter { watch, bytes_total, bytes_done: AtomicU64::new(0) };
        // Weights last: a snapshot that has them is whole.
        for files in [&texts, &weights] {
            self.fetch(&found, &repository, files, &counter)?;
        }
        repository.set_commit(&id.revision, &found.commit)?;
        let snapshot = repository.snapshot(&found.commit);
        Ok(if texts.is_empty() { snapshot.join(&weights[0].name) } else { snapshot })
    }

    fn refuse_offline(&self, id: &ModelId) -> Result<(), HubError> {
        if !self.offline {
            return Ok(());
        }
        let cache = self.cache.display();
        let cause = format!("{id}: not, or not whole, in {cache}, and HF_HUB_OFFLINE is set");
        Err(HubError::Offline(cause))
    }

    /// The files that serving needs: small ones, then weights. A GGUF model has the latter only.
    fn files(
        &self,
        found: &Listing<'_>,
        repository: &Repository,
    ) -> Result<(Vec<RemoteFile>, Vec<RemoteFile>), HubError> {
        match wanted(found.id, &found.paths)? {
            Wanted::Gguf(parts) => Ok((Vec::new(), found.describe(&parts)?)),
            Wanted::Folder { texts, weights: Weights::One } => {
                let weights = found.describe(&[hf::WEIGHTS.to_owned()])?;
                Ok((found.describe(&texts)?, weights))
            }
            Wanted::Folder { texts, weights: Weights::Indexed } => {
                let texts = found.describe(&texts)?;
                let index = texts.iter().filter(|file| file.name == hf::INDEX);
                let index: Vec<RemoteFile> = index.cloned().collect();
                let nobody =
                    Counter { watch: &|_| {}, bytes_total: 0, bytes_done: AtomicU64::new(0) };
                self.fetch(found, repository, &index, &nobody)?;
                let path = repository.snapshot(&found.commit).join(hf::INDEX);
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
        repository: &Repository,
        files: &[RemoteFile],
        counter: &Counter<'_>,
    ) -> Result<(), HubError> {
        let mut missing: BTreeMap<&str, Partial> = BTreeMap::new();
        for file in files {
            let blob = repository.blob(&file.etag);
            if is_whole(&blob, file.bytes) {
                counter.found(file.bytes);
            } else if missing.contains_key(file.etag.as_str()) {
                counter.found(file.bytes); // the same content under another name
            } else {
                missing.insert(&file.etag, Partial::open(file, blob)?);
            }
        }
        let url = |name: &str| found.url(name);
        let mut partials: Vec<Partial> = missing.into_values().collect();
        partials.sort_by_key(|partial| partial.remote().name.clone());
        Download { client: &self.client, url: &url, counter }.run(partials)?;
        files.iter().try_for_each(|file| repository.link(&found.commit, &file.name, &file.etag))
    }
}
