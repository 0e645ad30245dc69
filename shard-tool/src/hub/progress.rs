//! The progress of a download, and who is told of it.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the observer of a download is told, by any of its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownloadEvent {
    /// Another process downloads the same model, and this one waits for its end.
    Waiting,
    /// Some of the bytes were there already. They count as done.
    Found {
        /// The bytes that are done, of all files that serving needs.
        bytes_done: u64,
        /// The bytes of all files that serving needs.
        bytes_total: u64,
    },
    /// Some bytes arrived.
    Progress {
        /// The bytes that are done, of all files that serving needs.
        bytes_done: u64,
        /// The bytes of all files that serving needs.
        bytes_total: u64,
    },
}

/// Counts the bytes that are done, and tells the observer.
pub(super) struct ProgressCounter<'a> {
    watch: &'a (dyn Fn(DownloadEvent) + Sync),
    bytes_total: u64,
    bytes_done: AtomicU64,
}

impl<'a> ProgressCounter<'a> {
    /// Begins at 0.
    pub(super) fn new(watch: &'a (dyn Fn(DownloadEvent) + Sync), bytes_total: u64) -> Self {
        Self { watch, bytes_total, bytes_done: AtomicU64::new(0) }
    }

    /// Counts bytes that were there before.
    pub(super) fn found(&self, bytes: u64) {
        let bytes_done = self.count(bytes);
        (self.watch)(DownloadEvent::Found { bytes_done, bytes_total: self.bytes_total });
    }

    /// Counts bytes that arrived.
    pub(super) fn fetched(&self, bytes: u64) {
        let bytes_done = self.count(bytes);
        (self.watch)(DownloadEvent::Progress { bytes_done, bytes_total: self.bytes_total });
    }

    fn count(&self, bytes: u64) -> u64 {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed) + bytes
    }
}
