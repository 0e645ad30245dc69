//! What the hub says of a model: its commit and its paths, and the etag and length of a file.
//!
//! Everything is checked before it becomes a path, a name or a size. Commit and paths come from the
//! API. Etag and length come from the headers of the files, which mirrors have too.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::{HeaderMap, header};

use super::client::{HubClient, RequestTarget};
use super::concurrent::for_each_concurrently;
use super::id::{is_commit, is_plain_path};
use super::partial::{RemoteFile, is_etag};
use super::retry::{Retry, Stop};
use super::{HubError, ModelId};

/// The longest file. No file of the hub is so long.
const FILE_BYTES_MAX: u64 = 1 << 50;
/// What is percent-encoded in a segment of a URL's path: all but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What is percent-encoded in a URL's path of several segments.
const PATH: &AsciiSet = &SEGMENT.remove(b'/');

/// The part of the API's answer on a model that is read.
#[derive(Deserialize)]
struct ModelAnswer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

/// A file in the API's answer.
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
    /// Asks the hub for a model. What may pass by itself is tried again.
    pub(super) fn of(client: &'a HubClient, id: &'a ModelId) -> Result<Self, HubError> {
        Self::ask(client, id, &Stop::default())
    }

    /// Asks the hub for a model once, without trying again.
    pub(super) fn once(client: &'a HubClient, id: &'a ModelId) -> Result<Self, HubError> {
        let stop = Stop::default();
        stop.set();
        Self::ask(client, id, &stop)
    }

    fn ask(client: &'a HubClient, id: &'a ModelId, stop: &Stop) -> Result<Self, HubError> {
        let (endpoint, repository) = (client.endpoint(), id.repository());
        let revision = utf8_percent_encode(&id.revision, SEGMENT);
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

    /// Asks for etag and length of files. They come in the order of `names`.
    pub(super) fn describe(&self, names: &[String]) -> Result<Vec<RemoteFile>, HubError> {
        let described = Mutex::new(BTreeMap::new());
        let items: Vec<usize> = (0..names.len()).collect();
        for_each_concurrently(&items, |index, stop| {
            let name = &names[index];
            let (url, label) = (self.url(name), format!("{}: {name}", self.id));
            let target = RequestTarget { url: &url, name: &label };
            let headers = Retry::until(stop, &label, || self.client.head(target))?;
            let file = remote_file(name, &label, &headers)?;
            described.lock().unwrap_or_else(PoisonError::into_inner).insert(index, file);
            Ok(())
        })?;
        let described = described.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(described.into_values().collect())
    }

    /// The URL of a file's bytes.
    pub(super) fn url(&self, name: &str) -> String {
        let (endpoint, repository) = (self.client.endpoint(), self.id.repository());
        let path = utf8_percent_encode(name, PATH);
        format!("{endpoint}/{repository}/resolve/{}/{path}", self.commit)
    }
}

/// Reads etag and length out of the hub's headers. For large files the hub has headers of its own
/// with those of the storage. `label` names the file in errors.
fn remote_file(name: &str, label: &str, headers: &HeaderMap) -> Result<RemoteFile, HubError> {
    let refuse = |cause: &str| HubError::Answer(format!("{label}: {cause}"));
    let text = |key: &str| headers.get(key).and_then(|value| value.to_str().ok());
    let etag = text("x-linked-etag").or(text(header::ETAG.as_str()));
    let etag = etag.ok_or_else(|| refuse("the hub gives no etag"))?;
    let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    if !is_etag(etag) {
        return Err(refuse(&format!("the etag {etag:?} cannot be")));
    }
    let bytes = text("x-linked-size").or(text(header::CONTENT_LENGTH.as_str()));
    let bytes = bytes.and_then(|bytes| bytes.parse().ok()).filter(|bytes| *bytes < FILE_BYTES_MAX);
    let bytes = bytes.ok_or_else(|| refuse("the hub gives no length"))?;
    Ok(RemoteFile { name: name.to_owned(), etag: etag.to_owned(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreserved_characters_stay_as_they_are_in_a_url() {
        let encoded = |text, set| utf8_percent_encode(text, set).to_string();
        assert_eq!(encoded("a/b-c._~ %é?", PATH), "a/b-c._~%20%25%C3%A9%3F");
        assert_eq!(encoded("refs/pr/1", SEGMENT), "refs%2Fpr%2F1");
    }
}
