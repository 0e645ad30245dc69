//! A folder that appears whole or not at all.
//!
//! It is filled beside its place under a name that nobody can foresee, flushed, and renamed. If it
//! is given up, it is removed. A process that was killed leaves its folder behind, with a lock file
//! that nobody holds and that has the folder's name in it. By these and by its owner the next
//! process that writes a folder beside it knows such a folder, and removes it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::format::MANIFEST;
use crate::files::{Dir, is_random_name, random_name};
use crate::{Error, ErrorKind};

/// The lock file. The process that fills a folder holds it.
const LOCK: &str = ".lock";
/// The beginning of the name of a folder that is being filled. Its later name follows.
const BEFORE: &str = ".";
/// The end of the name of a folder that is being filled.
const AFTER: &str = ".partial";
/// The longest name. No file system has longer ones.
const NAME_BYTES_MAX: u64 = 4096;

/// A folder that is being filled. It is removed when this is dropped before [`Self::commit`].
pub(super) struct StagingFolder {
    /// The path that it will have.
    target: PathBuf,
    parent: Dir,
    /// Its name until it is whole.
    name: OsString,
    folder: Dir,
    /// The names of the files that were made in it.
    made: Vec<String>,
    done: bool,
    _lock: File,
}

impl StagingFolder {
    /// Begins a folder that will be at `target`, where nothing but an empty folder may be.
    pub(super) fn begin(target: &Path) -> Result<Self, Error> {
        let target = std::path::absolute(target)
            .map_err(|error| Error::io(target, "be the place of a folder", &error))?;
        let (Some(above), Some(last)) = (target.parent(), target.file_name()) else {
            return Err(Error::new(ErrorKind::Io, "not the name of a folder").file(&target));
        };
        let failed = |error: io::Error| Error::io(&target, "create", &error);
        let parent = Dir::open_or_make(above).map_err(failed)?;
        refuse_taken(&parent, last).map_err(|cause| cause.file(&target))?;
        if clear(&parent, last).map_err(failed)? == OtherWriter::Busy {
            let busy = Error::new(ErrorKind::Io, "another process is writing it");
            return Err(busy.file(&target));
        }
        let mut name = OsString::from(BEFORE);
        name.push(last);
        name.push(format!(".{}{AFTER}", random_name()));
        let folder = parent.make(&name).map_err(failed)?;
        let lock = lock(&folder, &name).map_err(|error| {
            let _ = parent.remove_folder(&name);
            failed(error)
        })?;
        let made = vec![LOCK.to_owned()];
        Ok(Self { target, parent, name, folder, made, done: false, _lock: lock })
    }

    /// Makes a file of `bytes` zeros and takes its space at once, so that a disk that is too small
    /// is noticed before anything is read.
    pub(super) fn file(&mut self, name: &str, bytes: u64) -> Result<File, Error> {
        let file = self.folder.create(name).map_err(|error| self.failed(name, bytes, &error))?;
        self.made.push(name.to_owned());
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes.max(1)) {
            Ok(()) => {}
            // Some file systems cannot take space before bytes are written.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(self.failed(name, bytes, &error.into())),
        }
        file.set_len(bytes).map_err(|error| self.failed(name, bytes, &error))?;
        Ok(file)
    }

    fn failed(&self, name: &str, bytes: u64, error: &io::Error) -> Error {
        let doing = format!("write its {bytes} bytes");
        let error = Error::io(&self.target.join(name), &doing, error);
        error.way_out("nothing was left behind")
    }

    /// Writes a small file.
    pub(super) fn write(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        let bytes = content.len() as u64;
        let mut file = self.file(name, bytes)?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        written.map_err(|error| self.failed(name, bytes, &error))
    }

    /// Writes the manifest and moves the folder to its place. Its files must be on the disk.
    pub(super) fn commit(mut self, manifest: &[u8]) -> Result<(), Error> {
        self.write(MANIFEST, manifest)?;
        let last = self.target.file_name().unwrap_or_default();
        let place = |error: io::Error| Error::io(&self.target, "be put in its place", &error);
        self.folder.sync().map_err(place)?;
        if let Err(error) = self.parent.rename(&self.name, &self.parent, last) {
            // Another process may have been faster.
            refuse_taken(&self.parent, last).map_err(|cause| cause.file(&self.target))?;
            return Err(place(error));
        }
        self.done = true;
        // The folder is whole, even if the lock stays in it.
        let _ = self.folder.remove(LOCK);
        self.folder.sync().and_then(|()| self.parent.sync()).map_err(place)
    }
}

impl Drop for StagingFolder {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // The error that ended the writing is told. What cannot be removed now is left to the next
        // process, which knows the folder by its lock: so the lock is removed last.
        for name in self.made.iter().rev() {
            let _ = self.folder.remove(name);
        }
        let _ = self.parent.remove_folder(&self.name);
    }
}

/// Makes the lock file of a folder that is called `name`, and takes the lock.
fn lock(folder: &Dir, name: &OsStr) -> io::Result<File> {
    let mut lock = folder.create_private(LOCK)?;
    let held = lock.lock().and_then(|()| lock.write_all(name.as_encoded_bytes()));
    held.map(|()| lock).inspect_err(|_| _ = folder.remove(LOCK))
}

/// Whether another process fills a folder for the same place.
#[derive(PartialEq, Eq)]
enum OtherWriter {
    None,
    /// A running process fills one.
    Busy,
}

/// Removes the folders that killed processes left behind, whatever their later names. Also says
/// whether a running process fills a folder that will be called `last`.
fn clear(parent: &Dir, last: &OsStr) -> io::Result<OtherWriter> {
    for name in parent.names()? {
        let Some(target) = target_of(&name) else { continue };
        // Folders of other users stay, and so does what is no folder or has gone by now.
        let Ok(folder) = parent.enter_own(&name) else { continue };
        let Ok(Some(lock)) = folder.open_own(LOCK) else { continue };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if target == last => return Ok(OtherWriter::Busy),
            Err(_) => continue,
        }
        // If somebody else gave a folder this name, its lock has another name in it, or is missing.
        let mut said = Vec::new();
        (&lock).take(NAME_BYTES_MAX).read_to_end(&mut said)?;
        if said == name.as_bytes() {
            remove_own(&folder)?;
            // The folder stays if somebody else put something into it.
            let _ = parent.remove_folder(&name);
        }
    }
    Ok(OtherWriter::None)
}

/// The later name of a folder that is being filled. `None` if `name` is not that of one.
fn target_of(name: &str) -> Option<&OsStr> {
    let middle = name.strip_prefix(BEFORE)?.strip_suffix(AFTER)?;
    let (target, random) = middle.rsplit_once('.')?;
    is_random_name(random).then_some(OsStr::new(target))
}

/// Removes this user's files from a folder, the lock last.
fn remove_own(folder: &Dir) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    for name in folder.names()?.iter().filter(|name| *name != LOCK) {
        let stat = folder.stat(name)?;
        let is_ours = |stat: &rustix::fs::Stat| {
            let file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            file && stat.st_uid == own
        };
        if stat.as_ref().is_some_and(is_ours) {
            folder.remove(name)?;
        }
    }
    folder.remove(LOCK)
}

/// Refuses a place where something other than an empty folder is.
fn refuse_taken(parent: &Dir, last: &OsStr) -> Result<(), Error> {
    let is_folder =
        |stat: &rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let names = || parent.enter(last).and_then(|folder| folder.names());
    match parent.stat(last) {
        Ok(None) => Ok(()),
        Ok(Some(stat)) if is_folder(&stat) && names().is_ok_and(|names| names.is_empty()) => Ok(()),
        Ok(Some(_)) => {
            let error = Error::new(ErrorKind::Io, "it is there already");
            Err(error.way_out("remove it or name another folder"))
        }
        Err(error) => Err(Error::new(ErrorKind::Io, format!("cannot create: {error}"))),
    }
}
