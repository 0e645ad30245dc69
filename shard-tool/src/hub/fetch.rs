//! Fetches files of a commit into the cache.

use std::collections::BTreeMap;

use super::cache::Locked;
use super::download::Download;
use super::listing::Listing;
use super::partial::{PartialFile, RemoteFile, is_whole};
use super::progress::ProgressCounter;
use super::{Hub, HubError};

impl Hub {
    /// Fetches those of `files` that the cache lacks, and links all of them into the snapshot.
    pub(super) fn fetch(
        &self,
        found: &Listing<'_>,
        locked: &Locked<'_>,
        files: &[RemoteFile],
        counter: &ProgressCounter<'_>,
    ) -> Result<(), HubError> {
        let mut missing: BTreeMap<&str, PartialFile<'_>> = BTreeMap::new();
        for file in files {
            if is_whole(&locked.repository.blob(&file.etag), file.bytes) {
                counter.found(file.bytes);
            } else if missing.contains_key(file.etag.as_str()) {
                counter.found(file.bytes); // its content is that of another file
            } else {
                missing.insert(&file.etag, PartialFile::open(file, &locked.blobs)?);
            }
        }
        let url = |name: &str| found.url(name);
        let mut partials: Vec<PartialFile<'_>> = missing.into_values().collect();
        partials.sort_by_key(|partial| partial.remote().name.clone());
        Download { client: &self.client, url: &url, counter }.run(partials)?;
        files.iter().try_for_each(|file| locked.link(&found.commit, &file.name, &file.etag))
    }
}
