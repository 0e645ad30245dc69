//! Files that the user names for a command to write to.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::ownership::{is_own_file, is_trusted};

/// Opens a file for writing, after making it or emptying it. What another user may have planted
/// under the name is refused: files and links of other users, and files of this user that have a
/// second name. A device is accepted if root or this user made it.
///
/// # Errors
/// The system's errors, and `PermissionDenied` for what may have been planted.
pub fn overwrite(path: &Path) -> io::Result<File> {
    let file = match open(path, OFlags::NOFOLLOW) {
        Err(Errno::LOOP) => {
            let link =
                fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            refuse_unless(is_trusted(fs::fstat(&link)?.st_uid), "a link that another user made")?;
            open(path, OFlags::empty())?
        }
        opened => opened?,
    };
    let stat = fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        let way_out = "another user's, or it has a second name; remove it or name another";
        refuse_unless(is_own_file(&stat), way_out)?;
        file.set_len(0)?;
    } else {
        refuse_unless(is_trusted(stat.st_uid), "not a file, and another user made it")?;
    }
    fs::fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

fn open(path: &Path, also: OFlags) -> Result<File, Errno> {
    // Without NONBLOCK, opening a pipe waits for its reader.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::CLOEXEC | also;
    fs::open(path, flags, Mode::from_raw_mode(0o666)).map(File::from)
}

fn refuse_unless(good: bool, cause: &str) -> io::Result<()> {
    if good { Ok(()) } else { Err(io::Error::new(io::ErrorKind::PermissionDenied, cause)) }
}
