//! A folder that was opened once, and what is done in it through its descriptor.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::ownership::{is_own_file, is_trusted};

/// Permissions of a new folder, before the process's mask takes some away.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);
/// Permissions of a new file, before the process's mask takes some away.
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);

/// An opened folder. Names are relative to it and have no slashes.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    /// Its path when it was opened, for messages.
    path: PathBuf,
}

impl Dir {
    /// Opens a folder that the user named. Its path may lead over any links.
    ///
    /// # Errors
    /// The system's errors.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd =
            fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd, path: path.to_path_buf() })
    }

    /// Opens a folder that the user named, and makes it and its parents first if they are missing.
    ///
    /// # Errors
    /// The system's errors.
    pub fn open_or_make(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Self::open(path)
    }

    /// The path of a name in this folder, for messages.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a folder in this one. A link is followed if this user or root made it.
    ///
    /// # Errors
    /// The system's errors, and `PermissionDenied` for the link of another user.
    pub fn enter(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        let name = name.as_ref();
        let fd = match self.open_folder(name) {
            Err(Errno::NOTDIR | Errno::LOOP) => self.follow(name)?,
            opened => opened?,
        };
        Ok(Self { fd, path: self.path(name) })
    }

    /// Opens a folder in this one that this user made. Links are not followed.
    ///
    /// # Errors
    /// The system's errors, and `PermissionDenied` for the folder of another user.
    pub fn enter_own(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        let fd = self.open_folder(name.as_ref())?;
        if fs::fstat(&fd)?.st_uid == rustix::process::geteuid().as_raw() {
            Ok(Self { fd, path: self.path(name) })
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }

    /// Opens a folder in this one as [`Self::enter`] does, and makes it first if it is missing.
    ///
    /// # Errors
    /// Those of [`Self::enter`].
    pub fn enter_or_make(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        match fs::mkdirat(&self.fd, name.as_ref(), FOLDER_MODE) {
            Ok(()) | Err(Errno::EXIST) => self.enter(name),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a folder in this one and opens it. It is empty, and a folder rather than a link.
    ///
    /// # Errors
    /// The system's errors, and `AlreadyExists`.
    pub fn make(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        self.make_with(name.as_ref(), FOLDER_MODE)
    }

    /// Makes a folder in this one, as [`Self::make`] does, that only this user may enter.
    ///
    /// # Errors
    /// Those of [`Self::make`].
    pub fn make_private(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        self.make_with(name.as_ref(), Mode::RWXU)
    }

    fn make_with(&self, name: &Path, mode: Mode) -> io::Result<Self> {
        fs::mkdirat(&self.fd, name, mode)?;
        let made = Self { fd: self.open_folder(name)?, path: self.path(name) };
        // Where other users may rename, it can be another folder by now.
        if made.names()?.is_empty() {
            Ok(made)
        } else {
            Err(io::Error::other("it was put in the place of the folder that was made"))
        }
    }

    fn open_folder(&self, name: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        fs::openat(&self.fd, name, flags, Mode::empty())
    }

    fn follow(&self, name: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link = fs::openat(&self.fd, name, flags, Mode::empty())?;
        let stat = fs::fstat(&link)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Err(Errno::NOTDIR.into());
        }
        let target = fs::readlinkat(&link, "", Vec::new())?;
        if !is_trusted(stat.st_uid) {
            let cause = format!(
                "a link that user {} made, to {}: nothing is written through it",
                stat.st_uid,
                target.to_string_lossy()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, cause));
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(fs::openat(&self.fd, target, flags, Mode::empty())?)
    }

    /// Makes a file under a name that must be free.
    ///
    /// # Errors
    /// The system's errors, and `AlreadyExists` for whatever has the name, links included.
    pub fn create(&self, name: impl AsRef<Path>) -> io::Result<File> {
        self.create_with(name.as_ref(), FILE_MODE)
    }

    /// Makes a file, as [`Self::create`] does, that only this user may read and write.
    ///
    /// # Errors
    /// Those of [`Self::create`].
    pub fn create_private(&self, name: impl AsRef<Path>) -> io::Result<File> {
        self.create_with(name.as_ref(), Mode::RUSR | Mode::WUSR)
    }

    fn create_with(&self, name: &Path, mode: Mode) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(fs::openat(&self.fd, name, flags, mode)?.into())
    }

    /// Opens a file of this user for reading and writing. `None` if no file has the name, or if the
    /// file is not regular, belongs to another user or has a second name.
    ///
    /// # Errors
    /// The system's errors.
    pub fn open_own(&self, name: impl AsRef<Path>) -> io::Result<Option<File>> {
        // Without NONBLOCK, opening a pipe waits for its other end.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match fs::openat(&self.fd, name.as_ref(), flags, Mode::empty()) {
            Ok(fd) => Ok(is_own_file(&fs::fstat(&fd)?).then(|| fd.into())),
            Err(Errno::NOENT | Errno::LOOP | Errno::ACCESS | Errno::ISDIR | Errno::NXIO) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a regular file of any user to lock it, and makes it first if it is missing.
    ///
    /// # Errors
    /// The system's errors.
    pub fn open_lock(&self, name: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = || fs::openat(&self.fd, name.as_ref(), flags, Mode::empty());
        let fd = match open() {
            Err(Errno::NOENT) => match self.create(name.as_ref()) {
                Ok(file) => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open()?,
                Err(error) => return Err(error),
            },
            opened => opened?,
        };
        match FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) {
            FileType::RegularFile => Ok(fd.into()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    /// Makes a link under a name that must be free.
    ///
    /// # Errors
    /// The system's errors, and `AlreadyExists`.
    pub fn link(&self, target: impl AsRef<Path>, name: impl AsRef<Path>) -> io::Result<()> {
        Ok(fs::symlinkat(target.as_ref(), &self.fd, name.as_ref())?)
    }

    /// The path that a link holds. `None` if the name is not that of a link.
    ///
    /// # Errors
    /// The system's errors.
    pub fn target(&self, name: impl AsRef<Path>) -> io::Result<Option<PathBuf>> {
        match fs::readlinkat(&self.fd, name.as_ref(), Vec::new()) {
            Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()).into())),
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the system says of a name. A link is not followed. `None` if nothing has the name.
    ///
    /// # Errors
    /// The system's errors.
    pub fn stat(&self, name: impl AsRef<Path>) -> io::Result<Option<fs::Stat>> {
        match fs::statat(&self.fd, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a name to another one, in this folder or another folder of the same file system. A
    /// file or a link that has the new name is replaced, and so is an empty folder.
    ///
    /// # Errors
    /// The system's errors.
    pub fn rename(
        &self,
        from: impl AsRef<Path>,
        to: &Self,
        name: impl AsRef<Path>,
    ) -> io::Result<()> {
        let (from, name) = (from.as_ref(), name.as_ref());
        Ok(fs::renameat(&self.fd, from, &to.fd, name)?)
    }

    /// Removes a file or a link.
    ///
    /// # Errors
    /// The system's errors.
    pub fn remove(&self, name: impl AsRef<Path>) -> io::Result<()> {
        Ok(fs::unlinkat(&self.fd, name.as_ref(), AtFlags::empty())?)
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// The system's errors.
    pub fn remove_folder(&self, name: impl AsRef<Path>) -> io::Result<()> {
        Ok(fs::unlinkat(&self.fd, name.as_ref(), AtFlags::REMOVEDIR)?)
    }

    /// All names in the folder that are UTF-8.
    ///
    /// # Errors
    /// The system's errors.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd)? {
            let name = entry?.file_name().to_owned();
            names.extend(name.into_string().ok().filter(|name| name != "." && name != ".."));
        }
        Ok(names)
    }

    /// Flushes the folder's names to the disk.
    ///
    /// # Errors
    /// The system's errors.
    pub fn sync(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.fd)?)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
