//! Requests by the ids that clients chose, so that they can be aborted.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use tonic::Status;

/// Bytes of an id.
const ID_BYTES_MAX: usize = 256;

/// The requests that run and have an id.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestIds(Arc<Mutex<Senders>>);

/// What aborts each of them, until it is used.
type Senders = BTreeMap<String, Option<oneshot::Sender<()>>>;

/// A request that can be aborted. Its id is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Abortable {
    id: String,
    ids: RequestIds,
    aborted: oneshot::Receiver<()>,
}

impl RequestIds {
    /// Takes an id for a request; `None` for an empty one, which cannot be aborted.
    pub(super) fn take(&self, id: String) -> Result<Option<Abortable>, Status> {
        if id.is_empty() {
            return Ok(None);
        }
        if id.len() > ID_BYTES_MAX {
            let message = format!("request_id has {} bytes, at most {ID_BYTES_MAX}", id.len());
            return Err(Status::invalid_argument(message));
        }
        match self.lock().entry(id.clone()) {
            Entry::Occupied(_) => {
                Err(Status::already_exists("a request with this request_id runs"))
            }
            Entry::Vacant(free) => {
                let (abort, aborted) = oneshot::channel();
                free.insert(Some(abort));
                Ok(Some(Abortable { id, ids: self.clone(), aborted }))
            }
        }
    }

    /// Aborts a request, if one with this id runs. The id is not free before that has ended.
    pub(super) fn abort(&self, id: &str) {
        let mut ids = self.lock();
        let abort = ids.get_mut(id).and_then(Option::take);
        drop(ids);
        if let Some(abort) = abort {
            let _ = abort.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Senders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Abortable {
    /// Ready once somebody has aborted the request. It must not be polled again then.
    pub(super) fn poll_aborted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.aborted).poll(cx).map(drop)
    }
}

impl Drop for Abortable {
    fn drop(&mut self) {
        self.ids.lock().remove(&self.id);
    }
}
