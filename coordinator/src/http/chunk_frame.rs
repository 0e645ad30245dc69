//! A chunk of a stream without its text.
//!
//! Thousands of chunks a second are written. All of a chunk but its text is the same for a whole
//! answer, so it is rendered once and the text is written into its gaps.

use bytes::{BufMut, BytesMut};

/// A server-sent event with gaps for a text as JSON, at least one.
#[derive(Debug)]
pub(super) struct ChunkFrame {
    /// What stands before each gap.
    before: Vec<String>,
    after: String,
}

impl ChunkFrame {
    /// Stands for the text in the chunk that is rendered once.
    pub(super) const PLACEHOLDER: &str = "\u{1}";
    const PLACEHOLDER_JSON: &str = "\"\\u0001\"";

    /// The frame of a chunk whose text is [`Self::PLACEHOLDER`].
    pub(super) fn new(chunk: &str) -> Self {
        let event = format!("data: {chunk}\n\n");
        let mut before: Vec<String> =
            event.split(Self::PLACEHOLDER_JSON).map(str::to_owned).collect();
        let after = before.pop().unwrap_or_default();
        Self { before, after }
    }

    /// Writes the chunk of `text`.
    pub(super) fn write(&self, text: &str, out: &mut BytesMut) {
        let bytes: usize = self.before.iter().map(|part| part.len() + text.len() + 16).sum();
        out.reserve(bytes + self.after.len());
        for part in &self.before {
            out.put_slice(part.as_bytes());
            // Writing into memory cannot fail, and neither can a string as JSON.
            let _ = serde_json::to_writer((&mut *out).writer(), text);
        }
        out.put_slice(self.after.as_bytes());
    }
}
