//! At most two clusters at once, however many test threads there are: the machine may have two
//! cores, and tests about time must not starve each other.

use std::sync::{Condvar, Mutex, PoisonError};

const AT_ONCE: usize = 2;

static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// The right to run a cluster, or (with both) to have the machine alone.
#[derive(Debug)]
pub(crate) struct Permit(usize);

impl Permit {
    /// Beside one other cluster at most.
    pub(crate) fn one() -> Self {
        Self::take(1)
    }

    /// Alone: for measurements and for tests whose moments must be met.
    pub(crate) fn alone() -> Self {
        Self::take(AT_ONCE)
    }

    fn take(count: usize) -> Self {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |taken: &mut usize| *taken + count > AT_ONCE;
        let mut taken = GIVEN_BACK.wait_while(taken, free).unwrap_or_else(PoisonError::into_inner);
        *taken += count;
        Self(count)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        GIVEN_BACK.notify_all();
    }
}
