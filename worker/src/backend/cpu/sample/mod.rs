//! Sampling a token from a row of logits.
//!
//! A token is the arg-max of `logit / temperature + noise` over the allowed tokens, the lowest id
//! among equals; at temperature 0 it is the arg-max of the logits. The noise is Gumbel-distributed,
//! so tokens come with the probabilities of the softmax, and it is a pure function of (seed,
//! choice, position, token id): the same token on any rank, at any number of ranks, and when a
//! request is computed again. That makes `gumbel` part of the format: a device must do the same,
//! and may use less precision only to find the candidates for the maximum, never to decide between
//! them.
//!
//! Logits are taken after biases and penalties (`token_counts.rs`). A row with a token mask is
//! sampled as if there were no other tokens than those that it allows. After the temperature, min-p
//! keeps the tokens whose probability is at least that share of the largest one; top-k keeps the k
//! best and all that equal the k-th; then top-p keeps the fewest of the most likely tokens whose
//! share of what both left reaches p, the lower id before its equal, and always the first. Logprobs
//! are of the raw logits.
//!
//! There is no randomness with a state.

mod allowed;
mod logprobs;
mod sample_row;
mod sampler;
#[cfg(test)]
mod tests;
mod token_counts;

pub use allowed::SampleScratch;
pub use sample_row::{SampleRowParams, sample_row};
pub use sampler::{LogitsRow, Sampler};
