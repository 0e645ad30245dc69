//! Names that another user of a shared folder cannot foresee.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Makes sixteen hexadecimal digits that nobody can foresee.
#[must_use]
pub fn random_name() -> String {
    // The hasher's keys come from the system's random numbers.
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// Whether a text has the form of a [`random_name`].
#[must_use]
pub fn is_random_name(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
