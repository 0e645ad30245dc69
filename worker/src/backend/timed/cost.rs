//! What an operation must at least compute and move, from shapes alone.
//!
//! Weights and cache count once a step. Activations do not count, since they are small beside
//! either where an operation is slow.

use binfer_shard::fit::touched_bytes;

use crate::batch::Batch;

/// An operation of a step, and what the device launched for it.
#[derive(Clone, Debug)]
pub(super) struct TimedOperation {
    /// "layers.17.attn.qkv".
    pub(super) name: String,
    pub(super) work: OperationWork,
    /// Names of kernels.
    pub(super) kernels: Vec<&'static str>,
}

/// What an operation computes.
#[derive(Clone, Copy, Debug)]
pub(super) enum OperationWork {
    /// A gemm of every token with a weight.
    Gemm { elements: u64, bytes: u64 },
    /// A gemm of every output with a weight.
    Head { elements: u64, bytes: u64 },
    /// Attention over the cache.
    Attend { heads: u64, kv_heads: u64, head_dim: u64, window: Option<u32>, element_bytes: u64 },
    /// Latent attention over the cache: a key, of which a part is the value too, for all heads.
    AttendLatent { heads: u64, latent_dim: u64, rope_dim: u64, element_bytes: u64 },
    /// A mixture of experts, `held` of all of which are here.
    Moe { every_token: WeightSize, experts: WeightSize, held: u64, of: u32, top_k: u32 },
    /// Reads the logits of every output.
    Sample { vocab: u64 },
    /// Nothing worth counting.
    Other,
}

/// How large weights are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WeightSize {
    pub(super) elements: u64,
    pub(super) bytes: u64,
}

impl std::iter::Sum for WeightSize {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), |sum, size| Self {
            elements: sum.elements + size.elements,
            bytes: sum.bytes + size.bytes,
        })
    }
}

/// Tokens, outputs and rows of a step's batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) tokens: u64,
    pub(super) outputs: u64,
    /// First position and tokens of each row.
    rows: Vec<(u64, u64)>,
}

/// Operations (a multiply-add is two) and bytes of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) flop: u64,
    pub(super) bytes: u64,
}

impl Counts {
    pub(super) fn of(batch: &Batch) -> Self {
        Self {
            tokens: batch.tokens.len() as u64,
            outputs: batch.outputs.len() as u64,
            rows: batch.rows.iter().map(|row| (row.start as u64, row.count as u64)).collect(),
        }
    }

    /// Positions that tokens attend to, summed over tokens; and positions that are read.
    fn attended(&self, window: Option<u32>) -> (u64, u64) {
        let reach = window.map_or(u64::MAX, u64::from);
        let of_row = |(start, count): &(u64, u64)| {
            let scored: u64 = (*start..start + count).map(|at| (at + 1).min(reach)).sum();
            let read = (start + count).min(count.saturating_add(reach));
            (scored, read)
        };
        let rows = self.rows.iter().map(of_row);
        rows.fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1))
    }
}

impl OperationWork {
    /// The size of a gemm's weight.
    pub(super) fn weight(self) -> WeightSize {
        match self {
            Self::Gemm { elements, bytes } => WeightSize { elements, bytes },
            _ => WeightSize::default(),
        }
    }

    /// The least that the operation must compute and move for such a batch.
    pub(super) fn cost(&self, counts: &Counts) -> Cost {
        match *self {
            Self::Gemm { elements, bytes } => Cost { flop: 2 * elements * counts.tokens, bytes },
            Self::Head { elements, bytes } => Cost { flop: 2 * elements * counts.outputs, bytes },
            Self::Attend { heads, kv_heads, head_dim, window, element_bytes } => {
                let (scored, read) = counts.attended(window);
                Cost {
                    flop: 4 * heads * head_dim * scored,
                    bytes: 2 * kv_heads * head_dim * element_bytes * read,
                }
            }
            Self::AttendLatent { heads, latent_dim, rope_dim, element_bytes } => {
                let (scored, read) = counts.attended(None);
                Cost {
                    flop: 2 * heads * (2 * latent_dim + rope_dim) * scored,
                    bytes: (latent_dim + rope_dim) * element_bytes * read,
                }
            }
            Self::Moe { every_token, experts, held, of, top_k } => {
                // What falls on this rank if all experts are chosen alike.
                let choices = counts.tokens * u64::from(top_k) * held / u64::from(of.max(1));
                let touched = touched_bytes(experts.bytes, top_k, of, counts.tokens);
                let of_expert = experts.elements / held.max(1);
                Cost {
                    flop: 2 * (every_token.elements * counts.tokens + of_expert * choices),
                    bytes: every_token.bytes + touched,
                }
            }
            Self::Sample { vocab } => Cost { flop: 0, bytes: 4 * vocab * counts.outputs },
            Self::Other => Cost::default(),
        }
    }
}
