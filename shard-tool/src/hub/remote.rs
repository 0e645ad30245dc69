//! A model's description without its weights: settings, and the headers of files by their ranges.
//!
//! The same readers as for files here, on bytes that are fetched as they ask. Nothing is kept.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::client::{HubClient, RequestTarget};
use super::download::{check_range, for_each_concurrently};
use super::listing::Listing;
use super::partial::RemoteFile;
use super::retry::{Failure, Retry, Stop};
use super::select::{Wanted, WeightFiles, wanted};
use super::{Hub, HubError, ModelId};
use crate::families::Described;
use crate::gguf::StoredTensor;
use crate::hf::safetensors::{self, HeaderFile};
use crate::hf::{self, ConfigJson};
use crate::ranged_read::ReadAt;
use crate::weight_map::WeightMap;
use crate::{Description, Gguf, families};

/// Fetched of every file at once: most headers of safetensors are shorter.
const START_BYTES: u64 = 128 << 10;

impl Hub {
    /// What a model on the hub is made of, from settings and headers alone.
    ///
    /// # Errors
    /// As [`Self::pull`]; [`HubError::HubModel`] for what cannot be served.
    pub fn describe(&self, id: &ModelId) -> Result<Description, HubError> {
        self.refuse_offline(id)?;
        let found = Listing::of(&self.client, id)?;
        let remote = Remote { client: &self.client, found: &found };
        let Described { spec, notes } = match wanted(id, &found.paths)? {
            Wanted::Gguf(parts) => remote.gguf(&parts)?,
            Wanted::Folder { weights, .. } => remote.folder(weights)?,
        };
        Ok(Description { spec, notes, assumed: false, shards_world: None })
    }
}

/// A model at a commit, and how to read of it.
struct Remote<'a> {
    client: &'a HubClient,
    found: &'a Listing<'a>,
}

impl Remote<'_> {
    fn folder(&self, weights: WeightFiles) -> Result<Described, HubError> {
        let path = self.path("config.json");
        let config = ConfigJson::parse(&path, &self.text("config.json")?)?;
        let family = families::of_class(&config)?;
        let files = match weights {
            WeightFiles::One => vec![hf::WEIGHTS.to_owned()],
            WeightFiles::Indexed => hf::named_files(&self.path(hf::INDEX), &self.text(hf::INDEX)?)?,
        };
        let headers = self.headers(&files, |input| Ok(safetensors::header(&input)?.tensors))?;
        let mut weight_map = WeightMap::default();
        headers.into_iter().flatten().for_each(|info| weight_map.describe(info));
        Ok(families::of_config(family, &config, &weight_map)?)
    }

    fn gguf(&self, parts: &[String]) -> Result<Described, HubError> {
        let read = |input: HeaderFile<'_>| Gguf::read_from(input.reader, input.path, input.bytes);
        let headers = self.headers(parts, read)?;
        let mut weight_map = WeightMap::default();
        let tensors = headers.iter().flat_map(Gguf::tensors);
        tensors.for_each(|info: &StoredTensor| weight_map.describe(info.clone()));
        Ok(families::of_gguf(&headers[0], &weight_map, &self.path(&parts[0]))?)
    }

    /// What `read` makes of the beginning of each file, in their order.
    fn headers<T: Send>(
        &self,
        names: &[String],
        read: impl Fn(HeaderFile<'_>) -> Result<T, crate::Error> + Sync,
    ) -> Result<Vec<T>, HubError> {
        let files = self.found.describe(names)?;
        let headers = Mutex::new(Vec::new());
        let items: Vec<usize> = (0..files.len()).collect();
        for_each_concurrently(&items, |index, stop| {
            let RemoteFile { name, bytes, .. } = &files[index];
            let (url, start) = (self.found.url(name), OnceLock::new());
            let reader =
                RemoteReader { client: self.client, url: &url, name, bytes: *bytes, stop, start };
            let path = self.path(name);
            let header = read(HeaderFile { path: &path, reader: &reader, bytes: *bytes })?;
            headers.lock().unwrap_or_else(PoisonError::into_inner).push((index, header));
            Ok(())
        })?;
        let mut headers = headers.into_inner().unwrap_or_else(PoisonError::into_inner);
        headers.sort_by_key(|(index, _)| *index);
        Ok(headers.into_iter().map(|(_, header)| header).collect())
    }

    /// A small file as a whole.
    fn text(&self, name: &str) -> Result<Vec<u8>, HubError> {
        let url = self.found.url(name);
        let target = RequestTarget { url: &url, name };
        Retry::until(&Stop::default(), name, || self.client.text(target))
    }

    /// What messages call a file.
    fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.found.id.repository()).join(name)
    }
}

/// A file on the hub, read by places.
struct RemoteReader<'a> {
    client: &'a HubClient,
    url: &'a str,
    name: &'a str,
    bytes: u64,
    stop: &'a Stop,
    /// Its first bytes, once somebody asked for some of them.
    start: OnceLock<Vec<u8>>,
}

impl ReadAt for RemoteReader<'_> {
    fn fill(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        let end = at.saturating_add(out.len() as u64);
        let start_bytes = START_BYTES.min(self.bytes);
        if end > start_bytes {
            return self.fetch(out, at);
        }
        if self.start.get().is_none() {
            let mut start = vec![0; usize::try_from(start_bytes).unwrap_or(usize::MAX)];
            self.fetch(&mut start, 0)?;
            let _ = self.start.set(start);
        }
        let held = self.start.get().map_or(&[][..], Vec::as_slice);
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let part = held.get(from..from.saturating_add(out.len()));
        out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl RemoteReader<'_> {
    fn fetch(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let range = at..at.saturating_add(out.len() as u64);
        let target = RequestTarget { url: self.url, name: self.name };
        let once = || {
            let answer = self.client.range(target, &range)?;
            check_range(&answer, &range, self.bytes)
                .map_err(|cause| HubError::Answer(format!("{}: {cause}", self.name)))?;
            let mut body = answer.into_body().into_reader();
            body.read_exact(out).map_err(|error| Failure::passing(error.to_string()))
        };
        Retry::until(self.stop, self.name, once).map_err(io::Error::other)
    }
}
