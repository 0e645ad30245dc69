//! Frames between the coordinator and its text process: length, id, payload.
//!
//! The payload of a job is a [`Job`] in JSON. The first byte of a reply says what follows:
//! tokens of four bytes each, or JSON. Frame 0 of a process tells how its start went.

use crate::text::{Message, TextError};
use binfer_proto::Token;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::{Error, ErrorKind, Read, Write};

/// The longest payload; the largest that occurs is a vocabulary.
const PAYLOAD_BYTES_MAX: usize = 256 << 20;
const HEAD_BYTES: usize = 12;

/// A text that is to become tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TextJob {
    /// A plain text, in which control tokens are recognised.
    Prompt {
        /// The text.
        text: String,
        /// A text that cannot be as few tokens as this is refused.
        tokens_max: u32,
        /// Whether what the tokenizer itself puts around a text is put there.
        add_special: bool,
    },
    /// A conversation, which the model's chat template renders.
    Chat {
        /// Its messages.
        messages: Vec<Message>,
        /// A rendered text that cannot be as few tokens as this is refused.
        tokens_max: u32,
        /// As for a prompt; most templates write that themselves.
        add_special: bool,
    },
}

/// What the text process is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Job<'a> {
    /// A text that is to become tokens.
    Text(Cow<'a, TextJob>),
    /// The files that make another program read texts alike.
    Files,
}

/// What the text process answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TextReply {
    /// The tokens of a job.
    Tokens(Vec<Token>),
    /// The files of a job; [`crate::text::TokenizerFiles`] in JSON.
    Files(Vec<u8>),
    /// The start succeeded; [`crate::text::TextFacts`] in JSON.
    Facts(Vec<u8>),
    /// The job or the start failed.
    Refused(Refusal),
}

/// An error of the text process.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// The chat template refused the conversation.
    Template(String),
    /// The text is longer than any that fits.
    TooLong(String),
    /// Any other error.
    Other(String),
}

impl From<TextError> for Refusal {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Template(cause) => Self::Template(cause),
            TextError::TooLong(cause) => Self::TooLong(cause),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<Refusal> for TextError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Template(cause) => Self::Template(cause),
            Refusal::TooLong(cause) => Self::TooLong(cause),
            Refusal::Other(cause) => Self::Told(cause),
        }
    }
}

impl TextReply {
    pub(super) fn to_payload(&self) -> Vec<u8> {
        match self {
            Self::Tokens(tokens) => {
                let mut payload = Vec::with_capacity(1 + 4 * tokens.len());
                payload.push(b't');
                tokens.iter().for_each(|token| payload.extend_from_slice(&token.to_le_bytes()));
                payload
            }
            Self::Files(json) => [b"d", json.as_slice()].concat(),
            Self::Facts(json) => [b"f", json.as_slice()].concat(),
            Self::Refused(refusal) => {
                let json = serde_json::to_vec(refusal).unwrap_or_default();
                [b"r", json.as_slice()].concat()
            }
        }
    }

    /// Reads a payload; `None` for one that no text process of this version writes.
    pub(super) fn of_payload(payload: &[u8]) -> Option<Self> {
        match payload.split_first()? {
            (b't', tokens) => {
                let (tokens, rest) = tokens.as_chunks::<4>();
                let tokens = tokens.iter().map(|bytes| Token::from_le_bytes(*bytes)).collect();
                rest.is_empty().then_some(Self::Tokens(tokens))
            }
            (b'd', json) => Some(Self::Files(json.to_vec())),
            (b'f', json) => Some(Self::Facts(json.to_vec())),
            (b'r', json) => serde_json::from_slice(json).ok().map(Self::Refused),
            _ => None,
        }
    }
}

/// The payload of a job.
pub(super) fn job_payload(job: &Job<'_>) -> Result<Vec<u8>, TextError> {
    serde_json::to_vec(job).map_err(|error| TextError::Data(error.to_string()))
}

/// Writes a whole frame.
pub(super) fn write(out: &mut impl Write, id: u64, payload: &[u8]) -> std::io::Result<()> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidInput, "a frame too long"));
    }
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
    frame.extend_from_slice(&length);
    frame.extend_from_slice(&id.to_le_bytes());
    frame.extend_from_slice(payload);
    out.write_all(&frame)
}

/// Waits for a whole frame. The end of the input is an error too.
pub(super) fn read(input: &mut impl Read) -> std::io::Result<(u64, Vec<u8>)> {
    let mut head = [0; HEAD_BYTES];
    input.read_exact(&mut head)?;
    let (id, length) = parse(head)?;
    let mut payload = vec![0; length];
    input.read_exact(&mut payload)?;
    Ok((id, payload))
}

/// Removes the first frame from the bytes that have arrived, if it is whole.
pub(super) fn take(arrived: &mut Vec<u8>) -> std::io::Result<Option<(u64, Vec<u8>)>> {
    let Some(head) = arrived.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let (id, length) = parse(*head)?;
    if arrived.len() < HEAD_BYTES + length {
        return Ok(None);
    }
    let payload = arrived[HEAD_BYTES..HEAD_BYTES + length].to_vec();
    arrived.drain(..HEAD_BYTES + length);
    Ok(Some((id, payload)))
}

fn parse(head: [u8; HEAD_BYTES]) -> std::io::Result<(u64, usize)> {
    let [l0, l1, l2, l3, id @ ..] = head;
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if length > PAYLOAD_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidData, "a frame too long"));
    }
    Ok((u64::from_le_bytes(id), length))
}
