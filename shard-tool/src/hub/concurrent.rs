//! Work on several items over a few connections at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::HubError;
use super::retry::Stop;

/// The number of connections. One alone seldom fills a line, and the hub allows this many.
const CONNECTIONS: usize = 8;

/// Calls `work` for each of `items` on a few threads. The first error stops all of them.
pub(super) fn for_each_concurrently<T: Copy + Sync, F>(items: &[T], work: F) -> Result<(), HubError>
where
    F: Fn(T, &Stop) -> Result<(), HubError> + Sync,
{
    let next = AtomicUsize::new(0);
    let stop = Stop::default();
    let failed = Mutex::new(None);
    let take_items = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.is_set() {
                return;
            }
            if let Err(error) = work(*item, &stop) {
                // The error is kept before the other threads stop, so it is the first cause.
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                stop.set();
            }
        }
    };
    std::thread::scope(|scope| {
        (0..CONNECTIONS.min(items.len())).for_each(|_| drop(scope.spawn(take_items)));
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), Err)
}
