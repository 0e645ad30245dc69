//! The sampling flags of every command that has them.

use binfer_proto::Sampling;
use clap::Args;

use crate::config::ConfigError;

/// Sampling flags, one for each parameter of [`Sampling`].
#[derive(Args, Clone, Debug)]
pub struct SamplingArgs {
    /// 0 takes the most likely token
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Sample from the N most likely tokens; 0 is all
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub top_k: u32,
    /// Sample from the smallest set of tokens that together are this likely
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Sample from tokens at least this share as likely as the most likely one; 0 is all
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Divides the logits of tokens in prompt and answer; 1 is off
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens in the answer
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Taken from the logits of tokens in the answer, as often as they occur there
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Makes a sampled answer repeatable
    #[arg(long)]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The parameters, checked. A flag that is not used here does not compile.
    ///
    /// # Errors
    /// The first parameter that is out of range.
    pub fn sampling(&self) -> Result<Sampling, ConfigError> {
        let Self {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            seed: _,
        } = *self;
        let sampling = Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
        };
        sampling.checked().map_err(|error| ConfigError(error.to_string()))
    }
}
