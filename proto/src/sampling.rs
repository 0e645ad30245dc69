//! How a token is sampled from logits: parameters and biases, and which values a plan may carry.
//!
//! A new parameter is a field of [`Sampling`]. Everything that must know of it takes the struct
//! apart field by field and does not compile until it does: here, the hash, the wire format, and
//! the backends of the worker.

use std::fmt;

use crate::ids::Token;

/// Biases of a sequence, at most: OpenAI's limit.
pub const BIASES_MAX: usize = 300;

/// What is added to the logit of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bias {
    /// The token.
    pub token: Token,
    /// The number added, from -100 to 100.
    pub value: f32,
}

/// How a token is sampled from logits. Penalties and filters that are off cost nothing.
///
/// They apply in this order, as vLLM's sampler documents it (0.22, `vllm.v1.sample.sampler`):
/// biases ([`crate::Open::biases`]), repetition penalty, frequency penalty, presence penalty;
/// temperature; min-p, top-k, top-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this share as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides the logits above 0 of tokens in prompt and answer, and multiplies those below;
    /// 1 is off.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens in the answer; 0 is off.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens in the answer, once for each time that they occur there; 0
    /// is off.
    pub frequency_penalty: f32,
}

/// A parameter that [`Sampling::check`] or [`Bias::check`] can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplingField {
    /// [`Sampling::temperature`].
    Temperature,
    /// [`Sampling::top_p`].
    TopP,
    /// [`Sampling::min_p`].
    MinP,
    /// [`Sampling::repetition_penalty`].
    RepetitionPenalty,
    /// [`Sampling::presence_penalty`].
    PresencePenalty,
    /// [`Sampling::frequency_penalty`].
    FrequencyPenalty,
    /// The list of [`Bias`].
    LogitBias,
}

impl fmt::Display for SamplingField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Temperature => "temperature",
            Self::TopP => "top_p",
            Self::MinP => "min_p",
            Self::RepetitionPenalty => "repetition_penalty",
            Self::PresencePenalty => "presence_penalty",
            Self::FrequencyPenalty => "frequency_penalty",
            Self::LogitBias => "logit_bias",
        })
    }
}

/// A sampling parameter that no worker takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {cause}")]
pub struct SamplingError {
    /// The parameter at fault.
    pub field: SamplingField,
    /// What is wrong with it, in words that follow its name.
    pub cause: String,
}

/// A float of a request as plans carry it: zero has no sign, and a number too small to be normal
/// (below 1.2e-38), which a device may take for zero, is zero. Infinities and NaN stay as they are,
/// for the checks to refuse.
fn canonical(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE { 0.0 } else { value }
}

impl Sampling {
    /// Takes the most likely token, always.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
    };

    /// The parameters as plans carry them: zeros without a sign, nothing smaller than a normal
    /// number; a `top_p` of 0 leaves the likeliest token alone, which is greedy. Whatever a client
    /// or a file asked for passes here. Refuses what [`Self::check`] does.
    pub fn checked(self) -> Result<Self, SamplingError> {
        let mut sampling = self.canonical();
        if sampling.top_p == 0.0 {
            (sampling.top_p, sampling.temperature) = (1.0, 0.0);
        }
        sampling.check()?;
        Ok(sampling)
    }

    /// Refuses values out of range.
    pub fn check(&self) -> Result<(), SamplingError> {
        let Self {
            temperature,
            top_k: _, // every count is possible
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
        } = *self;
        let refused = |field, cause| Err(SamplingError { field, cause });
        if !(temperature.is_finite() && temperature >= 0.0) {
            return refused(SamplingField::Temperature, format!("{temperature} is not 0 or more"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return refused(SamplingField::TopP, format!("{top_p} is not above 0 and at most 1"));
        }
        // The penalty's bounds keep a logit that it divides or multiplies a number.
        for (field, value, least, most) in [
            (SamplingField::MinP, min_p, 0.0, 1.0),
            (SamplingField::RepetitionPenalty, repetition_penalty, 0.01, 100.0),
            (SamplingField::PresencePenalty, presence_penalty, -2.0, 2.0),
            (SamplingField::FrequencyPenalty, frequency_penalty, -2.0, 2.0),
        ] {
            if !(least..=most).contains(&value) {
                return refused(field, format!("{value} is not from {least} to {most}"));
            }
        }
        Ok(())
    }

    /// Whether logits depend on the tokens so far.
    pub fn penalises(&self) -> bool {
        let penalties = |sampling: &Self| {
            let Self {
                temperature: _,
                top_k: _,
                top_p: _,
                min_p: _,
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
            } = *sampling;
            [repetition_penalty, presence_penalty, frequency_penalty]
        };
        penalties(self) != penalties(&Self::GREEDY)
    }

    /// The same parameters with every float [`canonical`].
    pub(crate) fn canonical(self) -> Self {
        let Self {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
        } = self;
        Self {
            temperature: canonical(temperature),
            top_k,
            top_p: canonical(top_p),
            min_p: canonical(min_p),
            repetition_penalty: canonical(repetition_penalty),
            presence_penalty: canonical(presence_penalty),
            frequency_penalty: canonical(frequency_penalty),
        }
    }
}

impl Bias {
    /// The same bias with its value as plans carry it: zero without a sign, nothing smaller than a
    /// normal number.
    #[must_use]
    pub fn canonical(self) -> Self {
        let Self { token, value } = self;
        Self { token, value: canonical(value) }
    }

    /// Refuses biases that are too many, out of range or out of order, and tokens that do not
    /// exist.
    pub fn check(biases: &[Self], vocab: u32) -> Result<(), SamplingError> {
        let field = SamplingField::LogitBias;
        let refused = |cause| Err(SamplingError { field, cause });
        if biases.len() > BIASES_MAX {
            let len = biases.len();
            return refused(format!("has {len} tokens, at most {BIASES_MAX} are taken"));
        }
        for Self { token, value } in biases {
            if *token >= vocab {
                let cause = format!("has token {token}, not one of the vocabulary of {vocab}");
                return refused(cause);
            }
            if !(-100.0..=100.0).contains(value) {
                return refused(format!("of token {token} is {value}, not from -100 to 100"));
            }
        }
        for (one, next) in biases.iter().zip(biases.iter().skip(1)) {
            let token = next.token;
            if one.token == token {
                return refused(format!("has token {token} twice"));
            }
            if one.token > token {
                return refused(format!("has token {token} after a larger one"));
            }
        }
        Ok(())
    }
}
