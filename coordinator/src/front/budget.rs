//! One cap on all text that clients have not read yet.
//!
//! Only the serve loop adds, only readers subtract; nobody waits here. Over the cap the serve loop
//! cancels the request with the most unread text (`Fronts::slowest`).

use std::sync::atomic::{AtomicUsize, Ordering};

/// Unread bytes over all requests, and their cap.
#[derive(Debug)]
pub struct UnreadBudget {
    unread_bytes: AtomicUsize,
    unread_bytes_max: usize,
}

impl UnreadBudget {
    /// A budget of `unread_bytes_max`.
    pub fn new(unread_bytes_max: usize) -> Self {
        Self { unread_bytes: AtomicUsize::new(0), unread_bytes_max }
    }

    /// Whether more is unread than allowed.
    pub fn is_over(&self) -> bool {
        self.unread_bytes() > self.unread_bytes_max
    }

    /// Unread bytes of all requests.
    pub fn unread_bytes(&self) -> usize {
        self.unread_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: usize) {
        self.unread_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, bytes: usize) {
        self.unread_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
