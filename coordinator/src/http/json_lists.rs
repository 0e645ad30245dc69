//! Lists in a request's JSON: stop strings, biases, prompts. Each takes no more memory than a few
//! times its bytes.

use super::json_numbers::{Count, Number, UpTo};
use crate::front::STOP_STRINGS_MAX;
use binfer_proto::{BIASES_MAX, Bias, Token};
use serde::de::{Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;

/// The error for several prompts in a request.
const ONE_PROMPT: &str = "must be one prompt: several in a request are not supported by this \
                          version of binfer, send a request for each";

/// A stop string, or several.
#[derive(Clone, Debug)]
pub(super) struct StopStrings(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for StopStrings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = StopStrings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<StopStrings, E> {
                Ok(StopStrings(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<StopStrings, A::Error> {
                collect(seq, STOP_STRINGS_MAX).map(StopStrings)
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

/// An array of at most `MOST` elements.
#[derive(Clone, Debug)]
pub(super) struct List<T, const MOST: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor<T, const MOST: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for ValueVisitor<T, MOST> {
            type Value = List<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                collect(seq, MOST).map(List)
            }
        }

        deserializer.deserialize_any(ValueVisitor(PhantomData))
    }
}

/// All elements, unless there are too many: an element may take more memory than its JSON.
fn collect<'de, T, A>(mut seq: A, most: usize) -> Result<Vec<T>, A::Error>
where
    T: Deserialize<'de>,
    A: SeqAccess<'de>,
{
    let mut all = Vec::new();
    while all.len() < most
        && let Some(one) = seq.next_element()?
    {
        all.push(one);
    }
    match all.len() == most && seq.next_element::<IgnoredAny>()?.is_some() {
        true => Err(A::Error::custom(format!("must have {most} elements at most"))),
        false => Ok(all),
    }
}

/// Token ids, written as strings, with what is added to their logits.
#[derive(Clone, Debug)]
pub(super) struct LogitBiases(pub(super) Vec<Bias>);

impl<'de> Deserialize<'de> for LogitBiases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "an object of token ids with numbers";

        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = LogitBiases;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogitBiases, A::Error> {
                let mut biases = Vec::new();
                while let Some(id) = map.next_key::<String>()? {
                    let wrong = |_| A::Error::custom(format!("must be {EXPECTED}"));
                    let token: Token = id.parse().map_err(wrong)?;
                    let Number(value) = map.next_value()?;
                    // The core refuses one too many, and more need not be kept for that.
                    if biases.len() <= BIASES_MAX {
                        biases.push(Bias { token, value });
                    }
                }
                Ok(LogitBiases(biases))
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

/// A text or its tokens, or an array of one of them.
#[derive(Clone, Debug)]
pub(super) enum PromptValue {
    Text(String),
    Tokens(Vec<Token>),
}

/// An element of the array in `prompt`.
enum Element {
    Token(Token),
    Prompt(PromptValue),
}

impl<'de> Deserialize<'de> for PromptValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = PromptValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of token ids")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PromptValue, E> {
                Ok(PromptValue::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PromptValue, A::Error> {
                match seq.next_element()? {
                    None => Ok(PromptValue::Tokens(Vec::new())),
                    Some(Element::Token(first)) => {
                        tokens(seq, vec![first]).map(PromptValue::Tokens)
                    }
                    Some(Element::Prompt(prompt)) => match seq.next_element::<IgnoredAny>()? {
                        None => Ok(prompt),
                        Some(_) => Err(A::Error::custom(ONE_PROMPT)),
                    },
                }
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl ValueVisitor {
            fn token<'de, E: Error>(value: impl IntoDeserializer<'de, E>) -> Result<Element, E> {
                Count::deserialize(value.into_deserializer()).map(|UpTo(id)| Element::Token(id))
            }
        }

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token id or a prompt")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Element, E> {
                Self::token(value)
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Element, E> {
                Self::token(value)
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Element, E> {
                Self::token(value)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Prompt(PromptValue::Text(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Element, A::Error> {
                tokens(seq, Vec::new()).map(|tokens| Element::Prompt(PromptValue::Tokens(tokens)))
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

fn tokens<'de, A: SeqAccess<'de>>(
    mut seq: A,
    mut tokens: Vec<Token>,
) -> Result<Vec<Token>, A::Error> {
    while let Some(UpTo(token)) = seq.next_element::<Count>()? {
        tokens.push(token);
    }
    Ok(tokens)
}
