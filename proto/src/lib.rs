//! Everything two binfer processes must agree on.
//!
//! Plain Rust types for the step contract ([`Plan`], [`Masks`], [`StepResult`]) with their checks and hashes,
//! and [`wire`], the one file that converts them to the prost types generated from `cluster.proto`.
//! Deliberately absent: transport, scheduling, and anything that knows a model.

mod check;
mod hash;
mod ids;
mod masks;
mod plan;
mod result;
#[cfg(test)]
mod tests;
pub mod wire;

pub use check::{PlanError, PlanLimits};
pub use ids::{BlockId, Epoch, GroupId, KvGroup, Rank, SlotId, StepId, Token};
pub use masks::{Mask, Masks, MasksError};
pub use plan::{
    BIASES_MAX, Bias, BlockGrant, Input, Open, Outputs, Plan, Row, Rows, Sampling, Start,
    TOP_LOGPROBS_MAX, expand_rows,
};
pub use result::{Logprob, RowResult, RowStatus, StepResult, Tokens};

/// Generated from `cluster.proto`; use [`wire`] to get in and out.
#[allow(missing_docs, clippy::all, clippy::disallowed_types, unreachable_pub)]
pub mod cluster {
    tonic::include_proto!("binfer.cluster.v1");
}

/// Version of this build, printed and compared in the handshake.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Digest of the protocol files: two builds that differ here must not talk.
pub const PROTOCOL_DIGEST: &str = env!("BINFER_PROTOCOL_DIGEST");
/// Largest message either side accepts, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
