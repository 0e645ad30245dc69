//! Files of a model's folder.
//!
//! Models are downloaded and unpacked: a link in their folder may lead to any file of whoever serves
//! them, and what it leads to would be served, or copied beside shards. So links may stay within the
//! folder, and go where the hub's cache has them: from `snapshots/COMMIT/` to `blobs/` beside it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Opens a regular file for reading. The folder that it lies in may be reached over any links, since
/// the user named it; the file itself may be a link only as the module says.
///
/// # Errors
/// The system's; `PermissionDenied` for a link that leads elsewhere.
pub fn open_within(path: &Path) -> io::Result<File> {
    let file = match open(path) {
        Err(Errno::LOOP) => open(&target(path)?)?,
        opened => opened?,
    };
    match FileType::from_raw_mode(fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

fn open(path: &Path) -> Result<File, Errno> {
    // A pipe would be waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).map(File::from)
}

/// Where a link leads in the end, if it may.
fn target(path: &Path) -> io::Result<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = std::fs::canonicalize(folder.unwrap_or(Path::new(".")))?;
    let target = std::fs::canonicalize(path)?;
    if target.starts_with(&folder) || target.parent() == blobs(&folder).as_deref() {
        return Ok(target);
    }
    let cause = format!(
        "a link out of the model's folder, to {}; put the file itself there (cp -L copies it), or \
         give the folder that has it",
        target.display()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, cause))
}

/// Where the hub's cache has the contents of a snapshot that `folder` is, or is part of.
fn blobs(folder: &Path) -> Option<PathBuf> {
    let is_snapshot =
        |at: &&Path| at.parent().and_then(Path::file_name).is_some_and(|name| name == "snapshots");
    let snapshot = folder.ancestors().find(is_snapshot)?;
    Some(snapshot.parent()?.parent()?.join("blobs"))
}
