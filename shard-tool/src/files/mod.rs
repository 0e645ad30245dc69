//! What this program writes and removes, in folders that others may write to as well, and what it
//! reads in folders that others have made.
//!
//! Between two steps a name in a shared folder can become something else: a link in the place of a
//! file, a folder in the place of another. So a folder is opened once ([`Dir`]), and everything in
//! it is done relative to its descriptor, a name at a time. New things get names that nobody can
//! know before and must not exist yet; what exists is written to only if it is this user's own; no
//! link is followed that somebody else could have made.
//!
//! Deliberately absent: removing a tree. What this process made it removes by name, one by one.

mod dir;
mod overwrite;
mod within;

use std::hash::{BuildHasher, Hasher, RandomState};

pub use dir::Dir;
pub use overwrite::overwrite;
pub use within::open_within;

/// Sixteen hexadecimal digits that nobody can foresee.
#[must_use]
pub fn random_name() -> String {
    // Keyed by the system's randomness.
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// Whether it can be the outcome of [`random_name`].
#[must_use]
pub fn is_random_name(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether links and files of that owner can be relied upon: this user and root could do worse.
fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == rustix::process::geteuid().as_raw()
}

/// Whether a file is this user's, regular, and known by one name: written to, it changes nothing
/// that somebody else can have meant by planting it.
fn is_own_file(stat: &rustix::fs::Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && stat.st_nlink == 1
}
