//! Describes a model on the hub by its settings and the headers of its files, without weights.
//!
//! The readers are those of local files, and bytes are fetched as they ask. Nothing is kept.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::client::{HubClient, RequestTarget};
use super::concurrent::for_each_concurrently;
use super::download::check_range;
use super::listing::Listing;
use super::partial::RemoteFile;
use super::retry::{Failure, Retry, Stop};
use super::select::{Wanted, WeightFiles, wanted};
use super::{Hub, HubError, ModelId};
use crate::families::Described;
use crate::hf::safetensors::{self, HeaderFile};
use crate::hf::{self, ConfigJson};
use crate::ranged_read::ReadAt;
use crate::weight_map::WeightMap;
use crate::{Description, Gguf, families};

/// The beginning of a file that is fetched at once. Most headers of safetensors are shorter.
const START_BYTES: u64 = 128 << 10;

impl Hub {
    /// Describes a model on the hub by its settings and headers alone.
    ///
    /// # Errors
    /// Those of [`Self::pull`], and [`HubError::Model`] for a model that cannot be served.
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

/// A model at a commit, whose files are read.
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
        headers.into_iter().flatten().try_for_each(|info| weight_map.describe(info))?;
        Ok(families::of_config(family, &config, &mut weight_map)?)
    }

    fn gguf(&self, parts: &[String]) -> Result<Described, HubError> {
        let read = |input: HeaderFile<'_>| Gguf::read_from(input.reader, input.path, input.bytes);
        let headers = self.headers(parts, read)?;
        let mut weight_map = WeightMap::default();
        let tensors = headers.iter().flat_map(Gguf::tensors);
        tensors.cloned().try_for_each(|info| weight_map.describe(info))?;
        Ok(families::of_gguf(&headers[0], &mut weight_map, &self.path(&parts[0]))?)
    }

    /// Calls `read` for each file. What it returns comes in the order of `names`.
    fn headers<T: Send>(
        &self,
        names: &[String],
        read: impl Fn(HeaderFile<'_>) -> Result<T, crate::Error> + Sync,
    ) -> Result<Vec<T>, HubError> {
        let files = self.found.describe(names)?;
        let headers = Mutex::new(Vec::new());
        let items: Vec<usize> = (0..files.len()).collect();
        for_each_concurrently(&items, |index, stop| {
            let file = &files[index];
            let reader = RemoteReader {
                client: self.client,
                url: &self.found.url(&file.name),
                file,
                stop,
                start: OnceLock::new(),
            };
            let path = self.path(&file.name);
            let header = read(HeaderFile { path: &path, reader: &reader, bytes: file.bytes })?;
            headers.lock().unwrap_or_else(PoisonError::into_inner).push((index, header));
            Ok(())
        })?;
        let mut headers = headers.into_inner().unwrap_or_else(PoisonError::into_inner);
        headers.sort_by_key(|(index, _)| *index);
        Ok(headers.into_iter().map(|(_, header)| header).collect())
    }

    /// Fetches a whole small file.
    fn text(&self, name: &str) -> Result<Vec<u8>, HubError> {
        let url = self.found.url(name);
        let target = RequestTarget { url: &url, name };
        Retry::until(&Stop::default(), name, || self.client.text(target))
    }

    /// The path of a file in messages.
    fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.found.id.repository()).join(name)
    }
}

/// A file on the hub that is read at positions.
struct RemoteReader<'a> {
    client: &'a HubClient,
    url: &'a str,
    file: &'a RemoteFile,
    stop: &'a Stop,
    /// Its first bytes, once some of them were asked for.
    start: OnceLock<Vec<u8>>,
}

impl ReadAt for RemoteReader<'_> {
    fn fill(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        let end = at.saturating_add(out.len() as u64);
        let start_bytes = START_BYTES.min(self.file.bytes);
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
        let target = RequestTarget { url: self.url, name: &self.file.name };
        let once = || {
            let answer = self.client.range(target, &range)?;
            check_range(&answer, &range, self.file)?;
            let mut body = answer.into_body().into_reader();
            body.read_exact(out).map_err(|error| Failure::passing(error.to_string()))
        };
        Retry::until(self.stop, &self.file.name, once).map_err(io::Error::other)
    }
}
