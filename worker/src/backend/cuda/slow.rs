//! What runs on reference kernels where there are better ones for published shapes; for people.

use std::collections::BTreeSet;

/// Parts of steps that reference kernels take.
#[derive(Default)]
pub(super) struct SlowParts(BTreeSet<String>);

impl SlowParts {
    /// Remembers one.
    pub(super) fn note(&mut self, part: String) {
        self.0.insert(part);
    }

    /// All of them in a sentence; none where there are none.
    pub(super) fn sentence(&self) -> Option<String> {
        let parts: Vec<&str> = self.0.iter().map(String::as_str).collect();
        (!parts.is_empty()).then(|| format!("slow, general kernels take {}", parts.join(", ")))
    }
}
