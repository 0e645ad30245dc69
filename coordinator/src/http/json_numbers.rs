//! Numbers in a request's JSON. `null` is as good as absent, so each stands in an `Option`.

use crate::front::PromptTokens;
use serde::de::{Error, IntoDeserializer, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// A whole number. Python's clients write some as 5.0, which pydantic takes.
struct WholeNumber(i128);

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl Visitor<'_> for ValueVisitor {
            type Value = WholeNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<WholeNumber, E> {
                Ok(WholeNumber(value.into()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<WholeNumber, E> {
                Ok(WholeNumber(value.into()))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<WholeNumber, E> {
                if value.fract() != 0.0 {
                    return Err(E::invalid_type(Unexpected::Float(value), &self));
                }
                #[expect(clippy::cast_possible_truncation, reason = "whole, and saturates")]
                Ok(WholeNumber(value as i128))
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

/// A whole number from 0 to `MOST`.
#[derive(Clone, Copy, Debug)]
pub(super) struct UpTo<const MOST: u32>(pub(super) u32);

/// A whole number of 32 bits.
pub(super) type Count = UpTo<{ u32::MAX }>;

impl<'de, const MOST: u32> Deserialize<'de> for UpTo<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let WholeNumber(value) = WholeNumber::deserialize(deserializer)?;
        let count = u32::try_from(value).ok().filter(|count| *count <= MOST);
        let refused = || D::Error::custom(format!("must be a whole number from 0 to {MOST}"));
        count.map(Self).ok_or_else(refused)
    }
}

/// How many of the most likely tokens to sample from, 0 for all. vLLM's clients write -1 for that.
#[derive(Clone, Copy, Debug)]
pub(super) struct TopK(pub(super) u32);

impl<'de> Deserialize<'de> for TopK {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let WholeNumber(value) = WholeNumber::deserialize(deserializer)?;
        let count = u32::try_from(value.max(0)).ok().filter(|_| value >= -1);
        count.map(Self).ok_or_else(|| D::Error::custom("must be -1, for all, or 0 or more"))
    }
}

/// A seed. `None` is a random one, for which clients write -1. Other negative numbers are taken by
/// their bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(pub(super) Option<u64>);

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let WholeNumber(value) = WholeNumber::deserialize(deserializer)?;
        if value == -1 {
            return Ok(Self(None));
        }
        let bits = u64::try_from(value).or_else(|_| i64::try_from(value).map(i64::cast_unsigned));
        let refused = |_| D::Error::custom("must be a whole number of 64 bits");
        bits.map(|bits| Self(Some(bits))).map_err(refused)
    }
}

/// How many tokens of a prompt are kept: so many of the last ones, or, written as -1, as many as
/// leave room for the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct CutPrompt(pub(super) PromptTokens);

impl<'de> Deserialize<'de> for CutPrompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let WholeNumber(value) = WholeNumber::deserialize(deserializer)?;
        let kept = match (value, u32::try_from(value)) {
            (-1, _) => PromptTokens::Fitting,
            (_, Ok(count)) if count > 0 => PromptTokens::Last(count),
            _ => return Err(D::Error::custom("must be -1, for all that fit, or 1 or more")),
        };
        Ok(Self(kept))
    }
}

/// A number, in the precision in which it is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number(pub(super) f32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        #[expect(clippy::cast_possible_truncation, reason = "too large is inf, refused later")]
        impl Visitor<'_> for ValueVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f32))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f32))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value as f32))
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

/// How many of the most likely tokens come beside each token of a completion. `false` asks for no
/// logprobs.
#[derive(Clone, Copy, Debug)]
pub(super) struct CompletionLogprobs(pub(super) Option<u32>);

/// The most of them that a request may ask for.
const COMPLETION_LOGPROBS_MAX: u32 = 5;

impl<'de> Deserialize<'de> for CompletionLogprobs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl ValueVisitor {
            fn count<'de, E: Error>(
                value: impl IntoDeserializer<'de, E>,
            ) -> Result<CompletionLogprobs, E> {
                let count = UpTo::<COMPLETION_LOGPROBS_MAX>::deserialize(value.into_deserializer());
                count.map(|UpTo(count)| CompletionLogprobs(Some(count)))
            }
        }

        impl Visitor<'_> for ValueVisitor {
            type Value = CompletionLogprobs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from 0 to {COMPLETION_LOGPROBS_MAX}")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<CompletionLogprobs, E> {
                match value {
                    false => Ok(CompletionLogprobs(None)),
                    true => Err(E::invalid_type(Unexpected::Bool(value), &self)),
                }
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<CompletionLogprobs, E> {
                Self::count(value)
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<CompletionLogprobs, E> {
                Self::count(value)
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<CompletionLogprobs, E> {
                Self::count(value)
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}
