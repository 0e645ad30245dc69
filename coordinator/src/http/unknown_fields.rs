//! Tells the operator of unknown fields, each once: they have no effect.

use crate::report::Report;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Names that are remembered. Further ones are not told.
const NAMES_MAX: usize = 256;

/// The unknown fields that were told.
#[derive(Debug)]
pub(super) struct UnknownFields {
    told: Mutex<BTreeSet<String>>,
    report: Report,
}

impl UnknownFields {
    pub(super) fn new(report: Report) -> Self {
        Self { told: Mutex::default(), report }
    }

    /// Tells the names that were not told before. A client may have written anything in them.
    pub(super) fn tell(&self, names: &[String]) {
        for name in names {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() < NAMES_MAX && told.insert(name.clone()) {
                let name = name.escape_debug();
                let line = format!("requests have a field \"{name}\", which has no effect here");
                self.report.line(&line);
            }
        }
    }
}
