//! Downloads: the pieces of several files, over a few connections at once.
//!
//! Threads take pieces off one list, small files first; who brings a file's last piece checks the
//! file. The first failure stops all; what arrived stays for the next time.

use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ureq::Body;
use ureq::http::{Response, StatusCode, header};

use super::client::{HubClient, RequestTarget};
use super::partial::{PIECE_BYTES, Partial};
use super::retry::{Failure, Retry, Stop};
use super::{DownloadEvent, HubError};

/// Connections at once: one alone seldom fills a line, and the hub allows this many.
const CONNECTIONS: usize = 8;
const BUFFER_BYTES: usize = 256 << 10;

/// Files that are fetched together.
pub(super) struct Download<'a> {
    pub(super) client: &'a HubClient,
    /// Of all files, by a path in the repository.
    pub(super) url: &'a (dyn Fn(&str) -> String + Sync),
    pub(super) counter: &'a Counter<'a>,
}

/// Bytes that are there, told to whoever watches.
pub(super) struct Counter<'a> {
    pub(super) watch: &'a (dyn Fn(DownloadEvent) + Sync),
    pub(super) bytes_total: u64,
    pub(super) bytes_done: AtomicU64,
}

impl<'a> Counter<'a> {
    /// Nothing is there yet.
    pub(super) fn new(watch: &'a (dyn Fn(DownloadEvent) + Sync), bytes_total: u64) -> Self {
        Self { watch, bytes_total, bytes_done: AtomicU64::new(0) }
    }

    /// Bytes that were there before.
    pub(super) fn found(&self, bytes: u64) {
        let (bytes_done, bytes_total) = (self.count(bytes), self.bytes_total);
        (self.watch)(DownloadEvent::Found { bytes_done, bytes_total });
    }

    fn fetched(&self, bytes: u64) {
        let (bytes_done, bytes_total) = (self.count(bytes), self.bytes_total);
        (self.watch)(DownloadEvent::Progress { bytes_done, bytes_total });
    }

    fn count(&self, bytes: u64) -> u64 {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed) + bytes
    }
}

/// A file and how many of its pieces are not there yet.
struct OpenDownload<'a> {
    partial: Partial<'a>,
    left: AtomicUsize,
}

impl Download<'_> {
    /// Fetches what is missing of all files and makes them blobs.
    pub(super) fn run(&self, partials: Vec<Partial<'_>>) -> Result<(), HubError> {
        let mut files = Vec::with_capacity(partials.len());
        let (mut pieces, mut found) = (Vec::new(), 0);
        for partial in partials {
            let count = partial.pieces();
            if count == 0 {
                partial.finish()?;
                continue;
            }
            for piece in 0..count {
                let missing = partial.missing(piece)?;
                found += missing.start - piece * PIECE_BYTES;
                pieces.push((files.len(), piece));
            }
            let left = AtomicUsize::new(usize::try_from(count).unwrap_or(usize::MAX));
            files.push(OpenDownload { partial, left });
        }
        self.counter.found(found);
        let fetch = |(file, piece): (usize, u64), stop: &Stop| {
            let file = &files[file];
            self.piece(&file.partial, piece, stop)?;
            if file.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                file.partial.finish()
            } else {
                Ok(())
            }
        };
        for_each_concurrently(&pieces, fetch)
    }

    /// Fetches what is missing of a piece, however often the connection breaks.
    fn piece(&self, partial: &Partial<'_>, piece: u64, stop: &Stop) -> Result<(), HubError> {
        let name = partial.remote().name.as_str();
        let mut retry = Retry::new(stop);
        let mut missing = partial.missing(piece)?;
        while !missing.is_empty() && !stop.is_set() {
            let before = missing.start;
            let outcome = self.fetch_range(partial, piece, &mut missing, stop);
            if missing.start > before {
                retry.progressed();
            }
            if let Err(failure) = outcome {
                retry.after(failure, name)?;
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(HubError::Unreachable(format!("{name}: given up, because another file failed")))
    }

    /// One request: writes what comes and moves the start of `missing` along.
    fn fetch_range(
        &self,
        partial: &Partial<'_>,
        piece: u64,
        missing: &mut Range<u64>,
        stop: &Stop,
    ) -> Result<(), Failure> {
        let remote = partial.remote();
        let url = (self.url)(&remote.name);
        let target = RequestTarget { url: &url, name: &remote.name };
        let answer = self.client.range(target, missing)?;
        check_range(&answer, missing, remote.bytes)
            .map_err(|cause| HubError::Answer(format!("{}: {cause}", remote.name)))?;
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        while !missing.is_empty() && !stop.is_set() {
            let room = usize::try_from(missing.end - missing.start).unwrap_or(usize::MAX);
            let part = &mut buffer[..room.min(BUFFER_BYTES)];
            match body.read(part) {
                Ok(0) => return Err(Failure::passing("the connection broke off")),
                Ok(count) => {
                    partial.write(piece, missing.start, &part[..count])?;
                    missing.start += count as u64;
                    self.counter.fetched(count as u64);
                }
                Err(error) => return Err(Failure::passing(error.to_string())),
            }
        }
        Ok(())
    }
}

/// Whether an answer brings the bytes that were asked for, of a file of that length.
pub(super) fn check_range(
    answer: &Response<Body>,
    wanted: &Range<u64>,
    file_bytes: u64,
) -> Result<(), String> {
    let length = answer.body().content_length();
    let bytes = wanted.end - wanted.start;
    if answer.status() == StatusCode::OK {
        // Ranges were ignored: of use only where all was wanted.
        return match length {
            _ if bytes != file_bytes => Err("the server does not know ranges".to_owned()),
            Some(length) if length != bytes => {
                Err(format!("the server sends {length} bytes of a file of {bytes}"))
            }
            _ => Ok(()),
        };
    }
    let expected = format!("bytes {}-{}/{file_bytes}", wanted.start, wanted.end - 1);
    let said = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let fits = said.is_some_and(|said| is_range(said, wanted, file_bytes));
    if answer.status() != StatusCode::PARTIAL_CONTENT || !fits {
        let said = said.unwrap_or("no range");
        return Err(format!("the server sends {said} where {expected} was asked for"));
    }
    match length {
        Some(length) if length != bytes => {
            Err(format!("the server sends {length} bytes for {expected}"))
        }
        _ => Ok(()),
    }
}

/// Whether a `Content-Range` says so; a server need not know how long the file is.
fn is_range(said: &str, wanted: &Range<u64>, file_bytes: u64) -> bool {
    let parse = || {
        let (unit, rest) = said.trim().split_once(' ')?;
        let (range, whole) = rest.trim().split_once('/')?;
        let (start, last) = range.split_once('-')?;
        let fits = unit.eq_ignore_ascii_case("bytes")
            && start.parse() == Ok(wanted.start)
            && last.parse() == Ok(wanted.end - 1)
            && (whole == "*" || whole.parse() == Ok(file_bytes));
        Some(fits)
    };
    parse().unwrap_or(false)
}

/// Does something for each of `items` on a few threads; the first failure stops all.
pub(super) fn for_each_concurrently<T: Copy + Sync, F>(items: &[T], work: F) -> Result<(), HubError>
where
    F: Fn(T, &Stop) -> Result<(), HubError> + Sync,
{
    let (next, stop, failed) = (AtomicUsize::new(0), Stop::default(), Mutex::new(None));
    let take_items = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.is_set() {
                return;
            }
            if let Err(error) = work(*item, &stop) {
                // Before the others learn of it, so that the first cause is the one that is told.
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                stop.set();
            }
        }
    };
    std::thread::scope(|scope| {
        (0..CONNECTIONS.min(items.len())).for_each(|_| drop(scope.spawn(take_items)));
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_may_leave_the_length_open() {
        for said in ["bytes 5-9/20", "bytes 5-9/*", "Bytes 5-9/*", " bytes  5-9/20 "] {
            assert!(is_range(said, &(5..10), 20), "{said}");
        }
        for said in ["", "bytes", "bytes 5-9", "bytes */20", "bytes 5-10/20", "items 5-9/20"] {
            assert!(!is_range(said, &(5..10), 20), "{said}");
        }
        assert!(!is_range("bytes 5-9/21", &(5..10), 20));
    }
}
