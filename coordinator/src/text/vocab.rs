//! The bytes of each token, side by side in one buffer: what detokenising reads.
//!
//! Byte-level vocabularies write each byte as one printable character (GPT-2's table). A token
//! with a character outside the table stands for itself, as in tokenizers' ByteLevel decoder.

use super::data::{TextData, TokenKind};
use binfer_proto::Token;

/// Bytes of every token. Control tokens and ids that do not exist have none.
#[derive(Debug)]
pub struct Vocab {
    bytes: Vec<u8>,
    /// Where token `i` begins; one entry more than tokens.
    starts: Vec<u32>,
}

impl Vocab {
    /// Of a byte-level vocabulary.
    pub(super) fn byte_level(data: &TextData) -> Self {
        let table = byte_table();
        let mut bytes = Vec::with_capacity(data.tokens.iter().map(String::len).sum());
        let mut starts = Vec::with_capacity(data.tokens.len() + 1);
        starts.push(0);
        for (word, kind) in data.tokens.iter().zip(&data.kinds) {
            if *kind != TokenKind::Control {
                let before = bytes.len();
                let known = word.chars().try_for_each(|c| {
                    bytes.push((*table.get(c as usize)?)?);
                    Some(())
                });
                if known.is_none() {
                    bytes.truncate(before);
                    bytes.extend_from_slice(word.as_bytes());
                }
            }
            starts.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        Self { bytes, starts }
    }

    /// The bytes that `token` adds to a text.
    pub fn bytes(&self, token: Token) -> &[u8] {
        let Ok(index) = usize::try_from(token) else { return &[] };
        match (self.starts.get(index), self.starts.get(index + 1)) {
            (Some(start), Some(end)) => &self.bytes[*start as usize..*end as usize],
            _ => &[],
        }
    }
}

/// GPT-2's table from characters to bytes: printable Latin-1 stands for itself, the other bytes
/// follow in order from U+0100.
fn byte_table() -> [Option<u8>; 324] {
    let mut table = [None; 324];
    let mut next = 256;
    for byte in 0..=255_u8 {
        match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => table[usize::from(byte)] = Some(byte),
            _ => {
                table[next] = Some(byte);
                next += 1;
            }
        }
    }
    table
}
