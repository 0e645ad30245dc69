//! The cache on disk, in the layout that Hugging Face's own library has, so that both share it.
//!
//! `models--ORG--NAME/` has `blobs/<etag>`, `snapshots/<commit>/<path>` (links to blobs) and
//! `refs/<revision>` (a commit). A blob has its name only once it is whole and checked, so a link
//! that resolves is a file to rely on.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::HubError;
use super::id::{ModelId, is_commit};

/// Folders within folders of a snapshot that are looked into.
const DEPTH_MAX: u32 = 8;

/// One repository's part of the cache.
#[derive(Debug)]
pub(super) struct Repository {
    dir: PathBuf,
    lock: PathBuf,
}

impl Repository {
    pub(super) fn new(cache: &Path, id: &ModelId) -> Self {
        let folder = format!("models--{}--{}", id.org, id.name);
        // Not the library's lock, which is one a file and not relied on there: it renames whole
        // files into place as this does.
        let lock = cache.join(".locks").join(&folder).join("binfer.lock");
        Self { dir: cache.join(folder), lock }
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.dir.join("blobs").join(etag)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// The commit that a revision stood for when it was last asked for.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let mut text = String::new();
        let file = File::open(self.dir.join("refs").join(revision)).ok()?;
        file.take(64).read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes what a revision stands for.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.dir.join("refs").join(revision);
        let failed = HubError::cache(&path);
        let write = || {
            make_parent(&path)?;
            let fresh = path.with_added_extension("binfer");
            fs::write(&fresh, commit)?;
            fs::rename(&fresh, &path)
        };
        write().map_err(failed)
    }

    /// Makes `snapshots/<commit>/<name>` a link to a blob.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(name);
        let up = "../".repeat(2 + name.matches('/').count());
        let failed = HubError::cache(&path);
        let link = || {
            make_parent(&path)?;
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), &path)
        };
        if path.is_file() { Ok(()) } else { link().map_err(failed) }
    }

    /// Keeps other binfer processes from writing to this repository; `waiting` is called before
    /// the wait for one that does.
    pub(super) fn lock(&self, waiting: impl FnOnce()) -> Result<File, HubError> {
        let take = || {
            make_parent(&self.lock)?;
            fs::create_dir_all(self.dir.join("blobs"))?;
            let file = File::options().create(true).append(true).open(&self.lock)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    waiting();
                    file.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            Ok(file)
        };
        take().map_err(HubError::cache(&self.lock))
    }

    /// Paths of the files that a snapshot has, those whose blobs are missing left out.
    pub(super) fn files(&self, commit: &str) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.snapshot(commit), "", DEPTH_MAX, &mut found);
        found.sort();
        found
    }
}

fn walk(dir: &Path, prefix: &str, depth: u32, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, Ok(name)) = (entry.path(), entry.file_name().into_string()) else { continue };
        if path.is_file() {
            found.push(format!("{prefix}{name}"));
        } else if path.is_dir() && depth > 0 {
            walk(&path, &format!("{prefix}{name}/"), depth - 1, found);
        }
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}
