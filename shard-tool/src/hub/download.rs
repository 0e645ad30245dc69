//! Downloads the pieces of several files over a few connections at once.
//!
//! Threads take pieces off one list. The thread that brings a file's last piece checks the file.
//! The first error stops all threads, and what arrived stays for the next download.

use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use ureq::Body;
use ureq::http::{Response, StatusCode, header};

use super::HubError;
use super::client::{HubClient, RequestTarget};
use super::concurrent::for_each_concurrently;
use super::partial::{PIECE_BYTES, PartialFile, RemoteFile};
use super::progress::ProgressCounter;
use super::retry::{Failure, Retry, Stop};

/// The bytes that are read of an answer at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Files that are fetched together.
pub(super) struct Download<'a> {
    pub(super) client: &'a HubClient,
    /// The URL of a path in the repository.
    pub(super) url: &'a (dyn Fn(&str) -> String + Sync),
    pub(super) counter: &'a ProgressCounter<'a>,
}

/// A file, and how many of its pieces are missing.
struct OpenDownload<'a> {
    partial: PartialFile<'a>,
    left: AtomicUsize,
}

impl Download<'_> {
    /// Fetches what is missing of all files, and makes them blobs.
    pub(super) fn run(&self, partials: Vec<PartialFile<'_>>) -> Result<(), HubError> {
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

    /// Fetches what is missing of a piece, over as many requests as it takes.
    fn piece(&self, partial: &PartialFile<'_>, piece: u64, stop: &Stop) -> Result<(), HubError> {
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

    /// Sends one request, writes what comes, and moves the start of `missing` along.
    fn fetch_range(
        &self,
        partial: &PartialFile<'_>,
        piece: u64,
        missing: &mut Range<u64>,
        stop: &Stop,
    ) -> Result<(), Failure> {
        let remote = partial.remote();
        let url = (self.url)(&remote.name);
        let target = RequestTarget { url: &url, name: &remote.name };
        let answer = self.client.range(target, missing)?;
        check_range(&answer, missing, remote)?;
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

/// Checks that an answer brings the bytes of `remote` that were asked for.
pub(super) fn check_range(
    answer: &Response<Body>,
    wanted: &Range<u64>,
    remote: &RemoteFile,
) -> Result<(), HubError> {
    let refuse = |cause: String| Err(HubError::Answer(format!("{}: {cause}", remote.name)));
    let file_bytes = remote.bytes;
    let length = answer.body().content_length();
    let bytes = wanted.end - wanted.start;
    if answer.status() == StatusCode::OK {
        // The server ignored the range. Its answer is of use only if all bytes were wanted.
        return match length {
            _ if bytes != file_bytes => refuse("the server does not know ranges".to_owned()),
            Some(length) if length != bytes => {
                refuse(format!("the server sends {length} bytes of a file of {bytes}"))
            }
            _ => Ok(()),
        };
    }
    let expected = format!("bytes {}-{}/{file_bytes}", wanted.start, wanted.end - 1);
    let said = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let fits = said.is_some_and(|said| is_range(said, wanted, file_bytes));
    if answer.status() != StatusCode::PARTIAL_CONTENT || !fits {
        let said = said.unwrap_or("no range");
        return refuse(format!("the server sends {said} where {expected} was asked for"));
    }
    match length {
        Some(length) if length != bytes => {
            refuse(format!("the server sends {length} bytes for {expected}"))
        }
        _ => Ok(()),
    }
}

/// Whether a `Content-Range` names the bytes that were asked for. It may leave the length open.
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
