//! The cache on disk, in the layout of Hugging Face's own library, so that both share it.
//!
//! `models--ORG--NAME/` has `blobs/<etag>`, `snapshots/<commit>/<path>` (links to blobs),
//! `refs/<revision>` (a commit) and `.no_exist/<commit>/<path>` (what the commit is known to lack).
//! A blob gets its name only after it is whole and checked, so a link that leads to a blob leads to
//! the right bytes. Other programs and users may write to the cache: see [`crate::files`].

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::HubError;
use super::id::{ModelId, is_commit};
use crate::files::{Dir, is_random_name, random_name};

/// The greatest depth of folders in a snapshot that are looked into.
const DEPTH_MAX: u32 = 8;
/// The folder of notes on what commits lack.
const ABSENT: &str = ".no_exist";
/// The lock of a repository. The library has a lock for each file, which this program does not
/// take: both rename whole files into place.
const LOCK: &str = "binfer.lock";
/// The beginning and end of the names that files and links have for a moment before their own.
const TEMPORARY: (&str, &str) = (".binfer.", ".tmp");

/// A repository's folder in the cache.
#[derive(Debug)]
pub(super) struct Repository {
    cache: PathBuf,
    /// The name of the folder.
    folder: String,
    dir: PathBuf,
}

impl Repository {
    pub(super) fn new(cache: &Path, id: &ModelId) -> Self {
        let folder = format!("models--{}--{}", id.org, id.name);
        Self { cache: cache.to_path_buf(), dir: cache.join(&folder), folder }
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

    /// The paths of a snapshot's files, without those whose blobs are missing.
    pub(super) fn files(&self, commit: &str) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.snapshot(commit), "", DEPTH_MAX, &mut found);
        found.sort();
        found
    }

    /// Whether a commit is known to have no such file.
    pub(super) fn lacks(&self, commit: &str, name: &str) -> bool {
        self.dir.join(ABSENT).join(commit).join(name).exists()
    }

    /// Notes that a commit has no such files.
    pub(super) fn note_absent(&self, commit: &str, names: &[&str]) -> io::Result<()> {
        let root = Dir::open(&self.cache)?.enter(&self.folder)?;
        let absent = root.enter_or_make(ABSENT)?.enter_or_make(commit)?;
        for name in names {
            match absent.create(name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Locks the repository against other processes of this program. `waiting` is called before a
    /// wait for the lock.
    pub(super) fn lock(&self, waiting: impl FnOnce()) -> Result<Locked<'_>, HubError> {
        let take = || {
            let cache = Dir::open_or_make(&self.cache)?;
            let lock =
                cache.enter_or_make(".locks")?.enter_or_make(&self.folder)?.open_lock(LOCK)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    waiting();
                    lock.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let root = cache.enter_or_make(&self.folder)?;
            let blobs = root.enter_or_make("blobs")?;
            remove_temporary(&root)?;
            Ok(Locked { repository: self, root, blobs, _lock: lock })
        };
        take().map_err(HubError::cache(&self.dir))
    }
}

/// A locked repository: no other process of this program writes to it meanwhile.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    pub(super) repository: &'a Repository,
    root: Dir,
    pub(super) blobs: Dir,
    _lock: File,
}

impl Locked<'_> {
    /// Notes the commit that a revision stands for.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        let write = || {
            let (folder, name) = self.parent(&["refs"], revision)?;
            let fresh = temporary_name();
            self.root.create(&fresh)?.write_all(commit.as_bytes())?;
            self.root.rename(&fresh, &folder, name)
        };
        write().map_err(HubError::cache(&self.repository.dir.join("refs").join(revision)))
    }

    /// Makes `snapshots/<commit>/<name>` a link to a blob. A link that leads to a file stays, and
    /// so does anything that is not a link.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), HubError> {
        let path = self.repository.snapshot(commit).join(name);
        let up = "../".repeat(2 + name.matches('/').count());
        let target = format!("{up}blobs/{etag}");
        let link = || {
            let (folder, last) = self.parent(&["snapshots", commit], name)?;
            match folder.link(&target, last) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                outcome => return outcome,
            }
            if folder.target(last)?.is_none() {
                return Err(io::Error::other("neither a file nor a link, in the place of one"));
            }
            // The link leads nowhere, since its blob was removed.
            let fresh = temporary_name();
            self.root.link(&target, &fresh)?;
            self.root.rename(&fresh, &folder, last)
        };
        if path.is_file() { Ok(()) } else { link().map_err(HubError::cache(&path)) }
    }

    /// Opens the folder of a path below `above`. Also returns the path's last name.
    fn parent<'p>(&self, above: &[&str], path: &'p str) -> io::Result<(Dir, &'p str)> {
        let (folders, last) = path.rsplit_once('/').unwrap_or(("", path));
        let below = folders.split('/').filter(|name| !name.is_empty());
        let mut names = above.iter().copied().chain(below);
        // There is at least one name.
        let first = self.root.enter_or_make(names.next().unwrap_or("refs"))?;
        let folder = names.try_fold(first, |folder, name| folder.enter_or_make(name))?;
        Ok((folder, last))
    }
}

fn temporary_name() -> String {
    let (before, after) = TEMPORARY;
    format!("{before}{}{after}", random_name())
}

/// Removes the temporary names of killed processes. Under the lock, no running process has any.
fn remove_temporary(root: &Dir) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let (before, after) = TEMPORARY;
    let middle = |name: &str| Some(name.strip_prefix(before)?.strip_suffix(after)?.to_owned());
    for name in root.names()?.iter().filter(|name| middle(name).is_some_and(|m| is_random_name(&m)))
    {
        let Some(stat) = root.stat(name)? else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_uid == own && matches!(kind, FileType::RegularFile | FileType::Symlink) {
            root.remove(name)?;
        }
    }
    Ok(())
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
