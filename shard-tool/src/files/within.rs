//! Files of a model's folder.
//!
//! Models are downloaded and unpacked. A link in a model's folder could lead to any file of the
//! user who serves it, and that file would be served or copied beside shards. So a link may lead to
//! a file of the same folder, or from `snapshots/COMMIT/` of the hub's cache to its `blobs/`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Opens a regular file of a model's folder for reading. The path to the folder may lead over any
/// links, since the user named it. The file may be a link to a file of the same folder, or from a
/// snapshot of the hub's cache to a blob.
///
/// # Errors
/// The system's errors, and `PermissionDenied` for a link that leads elsewhere.
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
    // Without NONBLOCK, opening a pipe waits for its other end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).map(File::from)
}

/// The file that a link leads to in the end.
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

/// The folder of the blobs of the snapshot that `folder` is, or is part of.
fn blobs(folder: &Path) -> Option<PathBuf> {
    let is_snapshot =
        |at: &&Path| at.parent().and_then(Path::file_name).is_some_and(|name| name == "snapshots");
    let snapshot = folder.ancestors().find(is_snapshot)?;
    Some(snapshot.parent()?.parent()?.join("blobs"))
}
