//! A model by its id: from the cache, or fetched from the hub.

use std::path::PathBuf;

use super::cache::{Locked, Repository};
use super::cached::Cached;
use super::listing::Listing;
use super::partial::{RemoteFile, remove_given_up};
use super::progress::ProgressCounter;
use super::select::{Wanted, WeightFiles, wanted};
use super::{DownloadEvent, Hub, HubError, HubModel, ModelId};
use crate::hf;

/// The most files of weights of a model.
const FILES_MAX: usize = 10_000;

impl Hub {
    /// Finds the model's folder or GGUF file in the cache, or fetches what the cache lacks.
    ///
    /// # Errors
    /// Those of [`Self::pull`], and [`HubError::Offline`] if the cache lacks files and the hub may
    /// not be asked.
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

    /// The model's folder or GGUF file, if the cache has enough of the model to serve it.
    #[must_use]
    pub fn cached(&self, id: &ModelId) -> Option<PathBuf> {
        match self.lookup(id) {
            Cached::Complete(path) => Some(path),
            Cached::Unconfirmed(unconfirmed) => Some(unconfirmed.path),
            Cached::Missing(_) => None,
        }
    }

    /// Asks the hub, fetches what the cache lacks, and returns the model's folder or GGUF file. If
    /// the hub may not be asked, only the cache is looked into.
    ///
    /// # Errors
    /// Errors of every kind of [`HubError`].
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
        let counter = ProgressCounter::new(watch, bytes(&texts) + bytes(&weights));
        // Weights come last, so that a snapshot which has them is whole.
        for files in [&texts, &weights] {
            self.fetch(&found, &locked, files, &counter)?;
        }
        locked.set_commit(&id.revision, &found.commit)?;
        // The model is whole, whether or not old files can be removed.
        let _ = remove_given_up(&locked.blobs);
        let snapshot = repository.snapshot(&found.commit);
        if texts.is_empty() {
            return Ok(snapshot.join(&weights[0].name));
        }
        let absent = |name: &&str| !found.paths.iter().any(|path| path == name);
        let absent: Vec<&str> = hf::SERVED_FILES.iter().copied().filter(absent).collect();
        let noted = repository.note_absent(&found.commit, &absent);
        noted.map_err(HubError::cache(&snapshot)).map(|()| snapshot)
    }

    /// The files that serving needs: text files, then weights. A GGUF model has weights only.
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
                self.fetch(found, locked, &index, &ProgressCounter::new(&|_| {}, 0))?;
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
}
