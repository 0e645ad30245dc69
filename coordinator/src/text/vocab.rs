//! The bytes of each token, side by side in one buffer, for decoding.
//!
//! A token that its spelling does not cover stands for itself, as in the tokenizers library.

use binfer_proto::Token;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The bytes of every token. Hidden tokens and ids without a token have none.
#[derive(Debug, Serialize, Deserialize)]
pub struct Vocab {
    #[serde(with = "latin1")]
    bytes: Vec<u8>,
    /// Where the bytes of token `i` begin; there is one entry more than tokens.
    starts: Vec<u32>,
    drops_first_space: bool,
    /// The written form of hidden tokens.
    names: BTreeMap<Token, String>,
}

/// How a vocabulary writes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// Each byte is one printable character, by the table of GPT-2.
    ByteLevel,
    /// As in SentencePiece a space is U+2581 and a single byte is `<0xNN>`.
    SentencePiece {
        /// The first space of the decoded bytes is not part of the text.
        drops_first_space: bool,
    },
}

/// The written form of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WrittenToken<'a> {
    /// The token is part of a text.
    Part(&'a str),
    /// The token is not part of a text.
    Hidden(&'a str),
    /// No token has this id.
    Hole,
}

impl Vocab {
    /// The vocabulary of written tokens by id.
    pub(super) fn new<'a>(
        words: impl Iterator<Item = WrittenToken<'a>>,
        spelling: Spelling,
    ) -> Self {
        let table = byte_table();
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        let mut names = BTreeMap::new();
        for (id, word) in (0..).zip(words) {
            match (word, spelling) {
                (WrittenToken::Hidden(name), _) => drop(names.insert(id, name.to_owned())),
                (WrittenToken::Hole, _) => {}
                (WrittenToken::Part(word), Spelling::ByteLevel) => {
                    byte_level(word, &table, &mut bytes)
                }
                (WrittenToken::Part(word), Spelling::SentencePiece { .. }) => {
                    sentence_piece(word, &mut bytes);
                }
            }
            starts.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        let drops_first_space = spelling == Spelling::SentencePiece { drops_first_space: true };
        Self { bytes, starts, drops_first_space, names }
    }

    /// The bytes that `token` adds to a text.
    pub fn bytes(&self, token: Token) -> &[u8] {
        let Ok(index) = usize::try_from(token) else { return &[] };
        match (self.starts.get(index), self.starts.get(index + 1)) {
            // The table comes from another process, so its numbers are checked.
            (Some(start), Some(end)) => {
                self.bytes.get(*start as usize..*end as usize).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// The written form of a hidden token; empty for any other.
    pub(super) fn name(&self, token: Token) -> &str {
        self.names.get(&token).map_or("", String::as_str)
    }

    /// The hidden token with this written form.
    pub(super) fn hidden(&self, name: &str) -> Option<Token> {
        self.names.iter().find(|(_, other)| *other == name).map(|(token, _)| *token)
    }

    /// Whether the first space of the decoded bytes is not part of the text.
    pub(super) fn drops_first_space(&self) -> bool {
        self.drops_first_space
    }
}

fn byte_level(word: &str, table: &[Option<u8>], bytes: &mut Vec<u8>) {
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

fn sentence_piece(word: &str, bytes: &mut Vec<u8>) {
    match single_byte(word) {
        Some(byte) => bytes.push(byte),
        None => bytes.extend_from_slice(word.replace('\u{2581}', " ").as_bytes()),
    }
}

/// The byte of a token of the form `<0xNN>`.
fn single_byte(word: &str) -> Option<u8> {
    let digits = word.strip_prefix("<0x")?.strip_suffix('>')?;
    let two = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| two)
}

/// GPT-2's table from characters to bytes. Printable Latin-1 stands for itself; the other bytes
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

/// Any bytes as a JSON string in which each byte is the character with its number.
mod latin1 {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        out.serialize_str(&text)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(input: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(input)?;
        text.chars().map(|c| u8::try_from(c).map_err(D::Error::custom)).collect()
    }
}
