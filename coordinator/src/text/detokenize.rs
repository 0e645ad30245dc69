//! Tokens to text, one token at a time, never splitting a character.
//!
//! All pieces together are the text of decoding all tokens at once. Bytes that can no longer become
//! a character turn into U+FFFD exactly where `String::from_utf8_lossy` would put it. An unfinished
//! character is held back until it is whole or the answer ends.

use super::vocab::Vocab;
use binfer_proto::Token;

/// The state of decoding one answer: the first bytes of a character that are held back, and whether
/// the text has begun, since SentencePiece puts a space in front of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Detokenizer {
    held: [u8; 4],
    held_len: usize,
    /// A token with bytes has come.
    begun: bool,
}

impl Detokenizer {
    /// Appends the text that is certain after `token`.
    pub fn push(&mut self, vocab: &Vocab, token: Token, text: &mut String) {
        let mut bytes = vocab.bytes(token);
        if !self.begun && !bytes.is_empty() {
            self.begun = true;
            if vocab.drops_first_space() {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        while self.held_len > 0 {
            let Some((first, rest)) = bytes.split_first() else { return };
            self.held[self.held_len] = *first;
            match std::str::from_utf8(&self.held[..=self.held_len]) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.held_len = 0;
                    bytes = rest;
                }
                Err(error) if error.error_len().is_none() => {
                    self.held_len += 1;
                    bytes = rest;
                }
                // The byte does not continue the held character but begins another.
                Err(_) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.held_len = 0;
                }
            }
        }
        self.append(bytes, text);
    }

    /// Appends what is held back, after the last token of an answer.
    pub fn finish(&mut self, text: &mut String) {
        if std::mem::take(&mut self.held_len) > 0 {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn append(&mut self, mut bytes: &[u8], text: &mut String) {
        loop {
            let error = match std::str::from_utf8(bytes) {
                Ok(valid) => {
                    text.push_str(valid);
                    return;
                }
                Err(error) => error,
            };
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            text.push_str(std::str::from_utf8(valid).unwrap_or_default());
            let Some(bad) = error.error_len() else {
                self.held[..rest.len()].copy_from_slice(rest);
                self.held_len = rest.len();
                return;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            bytes = &rest[bad..];
        }
    }
}
