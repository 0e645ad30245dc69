//! What the cache has of a model, and whether that is all of it.
//!
//! Other programs fill the same cache and fetch what they need: settings, tokenizer and weights,
//! but often not the files that say where an answer ends or how a chat is written. The cache has
//! notes of the files that a commit lacks. So a snapshot is complete if each file that serving
//! would read is there or noted as absent.

use std::path::PathBuf;

use super::cache::Repository;
use super::listing::Listing;
use super::progress::ProgressCounter;
use super::select::{Wanted, WeightFiles, wanted};
use super::{DownloadEvent, Hub, HubError, ModelId};
use crate::error::listed;
use crate::gguf::SplitName;
use crate::hf;

/// A model that is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// Its folder or GGUF file.
    pub path: PathBuf,
    /// A line for the user about files that may be missing.
    pub note: Option<String>,
}

/// What the cache has of a model.
pub(super) enum Cached {
    /// The cache has all files that serving needs.
    Complete(PathBuf),
    /// The cache has enough to serve. Only the hub knows whether the commit has the other files.
    Unconfirmed(Unconfirmed),
    /// The cache lacks at least these files. The list is empty if it has nothing of the model.
    Missing(Vec<String>),
}

/// A snapshot that may be incomplete.
pub(super) struct Unconfirmed {
    pub(super) path: PathBuf,
    commit: String,
    /// The files that it lacks, and that are not noted as absent.
    lacks: Vec<&'static str>,
}

/// Nearly every repository has these files, so a snapshot without one is probably incomplete.
const USUALLY_PRESENT: [&str; 2] = ["generation_config.json", "tokenizer_config.json"];

impl Hub {
    /// Looks for a model in the cache. If the hub may be asked, a GGUF file without a tag counts as
    /// missing, since only the hub knows whether the repository has others.
    pub(super) fn lookup(&self, id: &ModelId) -> Cached {
        let repository = Repository::new(&self.cache, id);
        let Some(commit) = repository.commit(&id.revision) else {
            return Cached::Missing(Vec::new());
        };
        let files = repository.files(&commit);
        let path = repository.snapshot(&commit);
        let (texts, weights) = match wanted(id, &files) {
            Err(_) => return Cached::Missing(missing(&files)),
            Ok(Wanted::Gguf(_)) if id.tag.is_none() && self.offline.is_none() => {
                return Cached::Missing(Vec::new());
            }
            Ok(Wanted::Gguf(parts)) => return Cached::Complete(path.join(&parts[0])),
            Ok(Wanted::Folder { texts, weights }) => (texts, weights),
        };
        let mut missing = match weights {
            WeightFiles::One => Vec::new(),
            WeightFiles::Indexed => hf::index_files(&path.join(hf::INDEX)).unwrap_or_default(),
        };
        missing.push("tokenizer.json".to_owned());
        missing.retain(|name| files.binary_search(name).is_err());
        if !missing.is_empty() {
            return Cached::Missing(missing);
        }
        let unknown = |name: &&str| {
            !texts.iter().any(|text| text == name) && !repository.lacks(&commit, name)
        };
        let lacks: Vec<&str> = hf::SERVED_FILES.iter().copied().filter(unknown).collect();
        if lacks.is_empty() {
            Cached::Complete(path)
        } else {
            Cached::Unconfirmed(Unconfirmed { path, commit, lacks })
        }
    }

    /// Asks the hub once for the files that may be missing, and notes the answer. If that fails,
    /// the snapshot is served as it is, and the user is told.
    pub(super) fn complete(
        &self,
        id: &ModelId,
        Unconfirmed { path, commit, lacks }: Unconfirmed,
        watch: &(dyn Fn(DownloadEvent) + Sync),
    ) -> HubModel {
        let obstacle = match self.offline {
            Some(variable) => {
                let likely = lacks.iter().any(|name| USUALLY_PRESENT.contains(name));
                likely.then(|| format!("{variable} is set"))
            }
            None => {
                let fetched = self.fetch_texts(id, &commit, &lacks, watch);
                fetched.err().map(|error| format!("they cannot be had from the hub ({error})"))
            }
        };
        let note = obstacle.map(|obstacle| {
            let files = listed(&lacks);
            format!(
                "{id}: the cache does not have {files}, and {obstacle}: if they belong to the \
                 model, answers differ"
            )
        });
        HubModel { path, note }
    }

    /// Fetches those of `names` that a commit has, and notes those that it lacks.
    fn fetch_texts(
        &self,
        id: &ModelId,
        commit: &str,
        names: &[&'static str],
        watch: &(dyn Fn(DownloadEvent) + Sync),
    ) -> Result<(), HubError> {
        let pinned = id.clone().at_revision(commit)?;
        let found = Listing::once(&self.client, &pinned)?;
        if found.commit != commit {
            let cause = format!("{id}: the hub answers with commit {} for {commit}", found.commit);
            return Err(HubError::Answer(cause));
        }
        let repository = Repository::new(&self.cache, id);
        let has = |name: &&str| found.paths.iter().any(|path| path == name);
        let (there, absent): (Vec<&str>, Vec<&str>) = names.iter().copied().partition(has);
        if !there.is_empty() {
            let locked = repository.lock(|| watch(DownloadEvent::Waiting))?;
            let there: Vec<String> = there.into_iter().map(str::to_owned).collect();
            let files = found.describe(&there)?;
            let counter = ProgressCounter::new(watch, files.iter().map(|file| file.bytes).sum());
            self.fetch(&found, &locked, &files, &counter)?;
        }
        // If the note cannot be written, the hub is asked again the next time.
        let _ = repository.note_absent(commit, &absent);
        Ok(())
    }

    /// Returns an error if the hub may not be asked. The error says what the cache lacks.
    pub(super) fn refuse_offline(&self, id: &ModelId) -> Result<(), HubError> {
        let Some(variable) = self.offline else { return Ok(()) };
        let cache = self.cache.display();
        Err(HubError::Offline(match self.lookup(id) {
            Cached::Missing(files) if !files.is_empty() => {
                let files = listed(&files);
                format!("{id}: not whole in {cache}: it lacks {files}, and {variable} is set")
            }
            _ => format!("{id}: not in {cache}, and {variable} is set"),
        }))
    }
}

/// The files that a snapshot of `files` needs at least before it can be served.
fn missing(files: &[String]) -> Vec<String> {
    let has = |name: &str| files.iter().any(|file| file == name);
    let parts = files.iter().filter_map(|file| SplitName::parse(file));
    let mut missing: Vec<String> = parts
        .flat_map(|part| (1..=part.count).map(move |number| part.sibling(number)))
        .filter(|part| !has(part))
        .collect();
    missing.sort();
    missing.dedup();
    if missing.is_empty() && !files.is_empty() {
        let weights = !has(hf::WEIGHTS) && !has(hf::INDEX);
        let needed = ["config.json", "tokenizer.json"].into_iter().filter(|name| !has(name));
        missing = needed.chain(weights.then_some(hf::WEIGHTS)).map(str::to_owned).collect();
    }
    missing
}
