//! What the hub says of a model: its commit, the paths there, and of a file etag and length.
//!
//! All of it is checked before it becomes a path, a name or a size. Commit and paths come from the
//! API, etag and length from the files' own headers, as mirrors have these too.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::{HeaderMap, header};

use super::client::{HubClient, RequestTarget};
use super::download::for_each_concurrently;
use super::id::{is_commit, is_plain_path};
use super::partial::{RemoteFile, is_etag};
use super::retry::{Retry, Stop};
use super::{HubError, ModelId};

/// The bytes that are encoded in a segment of a URL's path.
const SEGMENT: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The bytes that are encoded in a path of several segments.
const PATH: AsciiSet = SEGMENT.remove(b'/');

/// More than any file has.
const FILE_BYTES_MAX: u64 = 1 << 50;

/// The part of the API's answer that is read.
#[derive(Deserialize)]
struct ModelAnswer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// A model on the hub, at the commit that its revision stands for.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    client: &'a HubClient,
    pub(super) id: &'a ModelId,
    pub(super) commit: String,
    pub(super) paths: Vec<String>,
}

impl<'a> Listing<'a> {
    /// Asks for what the hub has under this id.
    pub(super) fn of(client: &'a HubClient, id: &'a ModelId) -> Result<Self, HubError> {
        Self::ask(client, id, &Stop::default())
    }

    /// The same, but what fails once is not tried again.
    pub(super) fn once(client: &'a HubClient, id: &'a ModelId) -> Result<Self, HubError> {
        let stop = Stop::default();
        stop.set();
        Self::ask(client, id, &stop)
    }

    fn ask(client: &'a HubClient, id: &'a ModelId, stop: &Stop) -> Result<Self, HubError> {
        let (endpoint, repository) = (client.endpoint(), id.repository());
        let revision = utf8_percent_encode(&id.revision, &SEGMENT);
        let url = format!("{endpoint}/api/models/{repository}/revision/{revision}");
        let name = id.to_string();
        let target = RequestTarget { url: &url, name: &name };
        let text = Retry::until(stop, &name, || client.text(target))?;
        let refuse = |cause: String| HubError::Answer(format!("{id}: the hub's listing: {cause}"));
        let info: ModelAnswer =
            serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))?;
        if !is_commit(&info.sha) {
            return Err(refuse(format!("{:?} is no commit", info.sha)));
        }
        let paths: Vec<String> =
            info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        match paths.iter().find(|path| !is_plain_path(path)) {
            Some(path) => Err(refuse(format!("{path:?} is not the path of a file"))),
            None => Ok(Self { client, id, commit: info.sha, paths }),
        }
    }

    /// What the hub says of files, in the order of `names`.
    pub(super) fn describe(&self, names: &[String]) -> Result<Vec<RemoteFile>, HubError> {
        let described = Mutex::new(BTreeMap::new());
        let items: Vec<usize> = (0..names.len()).collect();
        for_each_concurrently(&items, |index, stop| {
            let name = &names[index];
            let (url, label) = (self.url(name), format!("{}: {name}", self.id));
            let target = RequestTarget { url: &url, name: &label };
            let headers = Retry::until(stop, &label, || self.client.head(target))?;
            let file = remote_file(name, &headers)
                .map_err(|cause| HubError::Answer(format!("{label}: {cause}")))?;
            described.lock().unwrap_or_else(PoisonError::into_inner).insert(index, file);
            Ok(())
        })?;
        let described = described.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(described.into_values().collect())
    }

    /// Where a file's bytes are.
    pub(super) fn url(&self, name: &str) -> String {
        let (endpoint, repository) = (self.client.endpoint(), self.id.repository());
        format!(
            "{endpoint}/{repository}/resolve/{}/{}",
            self.commit,
            utf8_percent_encode(name, &PATH)
        )
    }
}

/// Etag and length as the hub gives them: of large files the storage's are in headers of its own.
fn remote_file(name: &str, headers: &HeaderMap) -> Result<RemoteFile, String> {
    let text = |key: &str| headers.get(key).and_then(|value| value.to_str().ok());
    let etag = text("x-linked-etag").or(text(header::ETAG.as_str()));
    let etag = etag.ok_or("the hub gives no etag")?;
    let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    if !is_etag(etag) {
        return Err(format!("the etag {etag:?} cannot be"));
    }
    let bytes = text("x-linked-size").or(text(header::CONTENT_LENGTH.as_str()));
    let bytes = bytes.and_then(|bytes| bytes.parse().ok()).filter(|bytes| *bytes < FILE_BYTES_MAX);
    let bytes = bytes.ok_or("the hub gives no length")?;
    Ok(RemoteFile { name: name.to_owned(), etag: etag.to_owned(), bytes })
}
