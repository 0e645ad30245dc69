//! Keeps several messages of one kind apart by an empty line.

use crate::text::pieces::{TextKind, TextPieces};

const SEPARATOR: &str = "\n\n";

/// What was said by now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Paragraphs {
    has_reasoning: bool,
    has_content: bool,
    /// A message began and has no text yet.
    is_new: bool,
}

impl Paragraphs {
    /// A message begins.
    pub(super) fn begin(&mut self) {
        self.is_new = true;
    }

    /// The message goes on.
    pub(super) fn say(&mut self, kind: TextKind, text: &str, out: &mut TextPieces) {
        if text.is_empty() {
            return;
        }
        let has_text = match kind {
            TextKind::Reasoning => &mut self.has_reasoning,
            TextKind::Content => &mut self.has_content,
        };
        if std::mem::take(&mut self.is_new) && *has_text {
            out.push(kind, SEPARATOR);
        }
        *has_text = true;
        out.push(kind, text);
    }
}
