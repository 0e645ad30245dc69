//! The date of what is sent, which no decision depends on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since the beginning of 1970.
pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
