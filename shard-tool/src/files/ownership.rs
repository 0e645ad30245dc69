//! Whose links and files this program relies on.

use rustix::fs::{FileType, Stat};

/// Whether links and files of that owner are relied on: this user's, and root's, who could do
/// worse.
pub(super) fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == rustix::process::geteuid().as_raw()
}

/// Whether a file is regular, is this user's, and has no second name: writing to it changes nothing
/// that another user planted.
pub(super) fn is_own_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && stat.st_nlink == 1
}
