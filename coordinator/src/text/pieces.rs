//! Text of an answer in pieces, each with its kind.

/// What a piece of an answer's text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// The model's thoughts before and between its answers (`reasoning_content`).
    Reasoning,
    /// The answer itself (`content`).
    Content,
}

/// Text of an answer in the model's order. Neighbouring pieces are of different kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextPieces {
    text: String,
    /// The kind of each piece and its length in bytes.
    pieces: Vec<(TextKind, usize)>,
}

impl TextPieces {
    /// Appends text. Empty text leaves no piece.
    pub fn push(&mut self, kind: TextKind, text: &str) {
        if text.is_empty() {
            return;
        }
        self.text.push_str(text);
        match self.pieces.last_mut() {
            Some((last, bytes)) if *last == kind => *bytes += text.len(),
            _ => self.pieces.push((kind, text.len())),
        }
    }

    /// Appends the pieces of `later`.
    pub fn append(&mut self, later: &Self) {
        later.iter().for_each(|(kind, text)| self.push(kind, text));
    }

    /// The pieces in their order.
    pub fn iter(&self) -> impl Iterator<Item = (TextKind, &str)> {
        let mut rest = self.text.as_str();
        self.pieces.iter().map(move |(kind, bytes)| {
            let (piece, later) = rest.split_at(*bytes);
            rest = later;
            (*kind, piece)
        })
    }

    /// All text of a kind.
    pub fn text_of(&self, kind: TextKind) -> String {
        self.iter().filter(|(other, _)| *other == kind).map(|(_, text)| text).collect()
    }

    /// Bytes of all text.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Removes all text and keeps the memory.
    pub fn clear(&mut self) {
        self.text.clear();
        self.pieces.clear();
    }
}
