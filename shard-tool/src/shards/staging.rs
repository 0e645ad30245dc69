//! A folder that appears whole or not at all.
//!
//! It is filled under another name beside its place, flushed, and renamed. What is given up is
//! removed; what a killed process left is removed by the next one that writes the same folder. The
//! manifest is created first, locked, and filled last: its lock tells the living from the dead.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::MANIFEST;
use crate::{Error, ErrorKind};

/// A folder in the making.
pub(super) struct Staging {
    /// Where it will be.
    target: PathBuf,
    /// Where it is.
    folder: PathBuf,
    manifest: File,
    done: bool,
}

impl Staging {
    /// Begins a folder that will be `target`, which must not be there or be empty.
    pub(super) fn begin(target: &Path) -> Result<Self, Error> {
        let refuse = |cause: &str| Error::new(ErrorKind::Io, cause).file(target);
        let target = std::path::absolute(target)
            .map_err(|error| Error::io(target, "be the place of a folder", &error))?;
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(refuse("not the name of a folder"));
        };
        refuse_taken(&target)?;
        let folder = parent.join(format!(".{}.partial", name.to_string_lossy()));
        let failed = |error: io::Error| Error::io(&folder, "create", &error);
        fs::create_dir_all(&folder).map_err(failed)?;
        let path = folder.join(MANIFEST);
        let manifest = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let manifest = manifest.map_err(failed)?;
        match manifest.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(refuse("another process is writing it"));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(&path, "lock", &error)),
        }
        let staging = Self { target, folder, manifest, done: false };
        // Whoever had the lock may have put the folder, and the manifest locked here, in its place.
        refuse_taken(&staging.target)?;
        staging.clear().map_err(|error| Error::io(&staging.folder, "clear", &error))?;
        Ok(staging)
    }

    /// Removes what a killed process left.
    fn clear(&self) -> io::Result<()> {
        self.manifest.set_len(0)?;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.file_name() != Some(MANIFEST.as_ref()) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Where a file of that name is until the end.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A new file of `bytes`, all zero, whose space is taken at once: a disk that is too small is
    /// noticed before anything is read.
    pub(super) fn file(&self, name: &str, bytes: u64) -> Result<File, Error> {
        let path = self.path(name);
        let failed = |error: io::Error| self.failed(&path, bytes, &error);
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes.max(1)) {
            Ok(()) => {}
            // Some file systems cannot take space before it is written.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(bytes).map_err(failed)?;
        Ok(file)
    }

    fn failed(&self, path: &Path, bytes: u64, error: &io::Error) -> Error {
        let doing = format!("write its {bytes} bytes");
        let error =
            Error::io(&self.target.join(path.file_name().unwrap_or_default()), &doing, error);
        error.way_out("nothing was left behind")
    }

    /// A small file.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let file = self.file(name, content.len() as u64)?;
        let written = (&file).write_all(content).and_then(|()| file.sync_all());
        written.map_err(|error| self.failed(&self.path(name), content.len() as u64, &error))
    }

    /// Gives the folder its manifest and its place. Its files must be on the disk.
    pub(super) fn commit(mut self, manifest: &[u8]) -> Result<(), Error> {
        let finish = || {
            (&self.manifest).write_all(manifest)?;
            self.manifest.sync_all()?;
            File::open(&self.folder)?.sync_all()?;
            fs::rename(&self.folder, &self.target)?;
            self.target.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        };
        finish().map_err(|error| Error::io(&self.target, "be put in its place", &error))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.done {
            // An error is on its way already; the next attempt clears the folder too.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn refuse_taken(target: &Path) -> Result<(), Error> {
    if target.symlink_metadata().is_err() || is_empty_folder(target) {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Io, "it is there already").file(target);
    Err(error.way_out("remove it or name another folder"))
}

fn is_empty_folder(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}
