//! One wake-up of the HTTP thread for all streams that got text in a step.
//!
//! Waking a task of another thread is a system call, and the serve loop would pay it for every
//! stream in every step. So streams do not hand it their own waker but one that puts them on a
//! list; only the first on the list wakes the HTTP thread, which then wakes the others itself.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::front::{End, Stream};

/// The list of readers for whom there is something.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<Rung>,
}

#[derive(Debug, Default)]
struct Rung {
    readers: Vec<Arc<Pull>>,
    keeper: Option<Waker>,
}

impl Bell {
    /// Wakes readers on the thread that calls this, for ever.
    pub(super) async fn keep(&self) -> Infallible {
        let mut readers = Vec::new();
        poll_fn(|cx| {
            let mut rung = self.lock();
            std::mem::swap(&mut rung.readers, &mut readers);
            rung.keeper = Some(cx.waker().clone());
            drop(rung);
            readers.drain(..).for_each(|pull: Arc<Pull>| pull.reader.wake_by_ref());
            Poll::Pending
        })
        .await
    }

    /// Moves `pull` to the list. The reader's own waker stays untouched: it belongs to a task that
    /// the other thread works on, and its memory would wander between the cores.
    fn ring(&self, pull: Arc<Pull>) {
        let mut rung = self.lock();
        rung.readers.push(pull);
        let keeper = if rung.readers.len() == 1 { rung.keeper.take() } else { None };
        drop(rung);
        if let Some(keeper) = keeper {
            keeper.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that is read with the bell.
#[derive(Debug)]
pub(super) struct Belled {
    stream: Stream,
    bell: Arc<Bell>,
    /// The reader's own waker, and the one that rings the bell for it.
    wakers: Option<(Waker, Waker)>,
}

impl Belled {
    pub(super) fn new(stream: Stream, bell: Arc<Bell>) -> Self {
        Self { stream, bell, wakers: None }
    }

    /// [`Stream::poll_take`].
    pub(super) fn poll_take(&mut self, cx: &Context<'_>, text: &mut String) -> Poll<Option<End>> {
        let stale = |(reader, _): &(Waker, Waker)| !reader.will_wake(cx.waker());
        if self.wakers.as_ref().is_some_and(stale) {
            self.wakers = None;
        }
        let (_, pull) = self.wakers.get_or_insert_with(|| {
            let reader = cx.waker().clone();
            let pull = Pull { bell: Arc::clone(&self.bell), reader: reader.clone() };
            (reader, Arc::new(pull).into())
        });
        self.stream.poll_take(&Context::from_waker(pull), text)
    }
}

/// Rings for one reader.
#[derive(Debug)]
struct Pull {
    bell: Arc<Bell>,
    reader: Waker,
}

impl Wake for Pull {
    fn wake(self: Arc<Self>) {
        Arc::clone(&self.bell).ring(self);
    }
}
