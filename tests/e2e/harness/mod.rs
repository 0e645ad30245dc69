//! What every end-to-end test stands on: real processes, an HTTP client, goldens, seeded numbers.
//!
//! A [`Server`] is killed with all of its workers when it is dropped, and no wait is without an
//! end. Deliberately absent: any knowledge of what a right answer is, except the goldens'.

mod command;
mod goldens;
mod http;
mod log;
mod permits;
mod prng;
mod process;
mod scratch;
mod server;

pub(crate) use command::{Run, binfer};
pub(crate) use goldens::{Golden, TOKENS, bf16_goldens, goldens, tokenizer_lines};
pub(crate) use http::{Client, Reply, Streamed};
pub(crate) use permits::Permit;
pub(crate) use prng::Prng;
pub(crate) use process::{
    is_alive, is_waiting, maps, newest_thread_named, send_signal, text_process_of, traces,
    workers_of,
};
pub(crate) use scratch::Scratch;
pub(crate) use server::Server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest that anything which must succeed may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Whether the whole matrix is wanted (`make test-full`).
pub(crate) fn full() -> bool {
    std::env::var_os("BINFER_TEST_FULL").is_some_and(|value| value == "1")
}

/// The demo model.
pub(crate) fn model_path() -> PathBuf {
    let path = binfer_coordinator::config::demo_path();
    path.unwrap_or_else(|_| {
        panic!("the demo model is missing: run `make demo` or `make test` once")
    })
}

/// A path in the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Asks until `condition` has something to say; for facts that nobody announces (`/proc`).
pub(crate) fn poll<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if start.elapsed() >= limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
