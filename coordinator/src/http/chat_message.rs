//! Messages of a conversation, in OpenAI's format.

use super::error::ApiError;
use super::json::Object;
use crate::text::Message;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Why tools are refused.
const NO_TOOLS: &str = "is refused: tools are not supported by this version of binfer";

/// The fields of a message that are read.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct MessageFields {
    role: String,
    content: Option<MessageContent>,
    name: Option<String>,
    /// What an assistant thought, as answers have it.
    reasoning_content: Option<String>,
    /// The same, by vLLM's newer name.
    reasoning: Option<String>,
    /// What an assistant said instead of an answer.
    refusal: Option<String>,
}

/// A text, or parts that are texts, joined by line breaks as in vLLM.
#[derive(Clone, Debug)]
struct MessageContent(String);

/// A part of a message's content.
#[derive(Deserialize)]
struct ContentPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
    refusal: Option<String>,
}

impl MessageFields {
    /// The message as templates see it. `index` is its place in the conversation.
    pub(super) fn message(self, index: usize) -> Result<Message, ApiError> {
        let refused = |field: &str, why: &str| {
            let place = format!("messages[{index}].{field}");
            Err(ApiError::invalid(&place, format!("{place} {why}")))
        };
        let is_assistant = self.role == "assistant";
        match self.role.as_str() {
            "system" | "developer" | "user" | "assistant" => {}
            "tool" | "function" => return refused("role", NO_TOOLS),
            _ => return refused("role", "must be system, developer, user or assistant"),
        }
        let content = match (self.content, self.refusal) {
            (Some(MessageContent(text)), _) => text,
            // An assistant may have said nothing, or have refused to answer.
            (None, refusal) if is_assistant => refusal.unwrap_or_default(),
            (None, _) => return refused("content", "is missing"),
        };
        let reasoning = self.reasoning_content.or(self.reasoning).filter(|text| !text.is_empty());
        if reasoning.is_some() && !is_assistant {
            return refused("reasoning_content", "belongs to messages of the assistant");
        }
        Ok(Message { role: self.role, content, name: self.name, reasoning })
    }
}

impl<'de> Deserialize<'de> for MessageContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = MessageContent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of parts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<MessageContent, E> {
                Ok(MessageContent(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<MessageContent, A::Error> {
                let mut content: Option<String> = None;
                while let Some(Object(part)) = seq.next_element::<Object<ContentPart>>()? {
                    let text = part.text().map_err(A::Error::custom)?;
                    content = Some(match content {
                        None => text,
                        Some(before) => before + "\n" + &text,
                    });
                }
                Ok(MessageContent(content.unwrap_or_default()))
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

impl ContentPart {
    /// The part's text, or what is wrong with it.
    fn text(self) -> Result<String, &'static str> {
        match self.kind.as_deref() {
            Some("text") => self.text.ok_or("has a part of type text without text"),
            Some("refusal") => self.refusal.ok_or("has a part of type refusal without refusal"),
            Some(_) => Err("has a part that is not text: images, audio and files are not \
                            supported by this version of binfer"),
            None => Err("has a part without type"),
        }
    }
}
