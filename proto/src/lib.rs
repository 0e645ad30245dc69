//! Everything two binfer processes must agree on.
//!
//! Plain Rust types for the step contract ([`Plan`], [`Masks`], [`StepResult`]) with their checks
//! and hashes, and [`wire`], which converts them to the prost types generated from `cluster.proto`.
//! [`client`] holds what was generated from the protos that clients speak.
//! Deliberately absent: transport, scheduling, and anything that knows a model.

mod check;
mod dtype;
mod hash;
mod ids;
mod masks;
mod plan;
mod result;
mod sampling;
#[cfg(test)]
mod tests;
pub mod wire;

pub use check::{PlanError, PlanLimits};
pub use dtype::KvDtype;
pub use ids::{BlockId, Epoch, KvGroup, Rank, ReplicaId, SlotId, StepId, Token};
pub use masks::{Mask, MaskError, Masks, MasksError};
pub use plan::{
    HashedPlan, Input, NewBlocks, Open, Outputs, Plan, Row, Rows, TOP_LOGPROBS_MAX, expand_rows,
};
pub use result::{Logprob, RowResult, RowStatus, StepResult, Tokens};
pub use sampling::{BIASES_MAX, Bias, Sampling, SamplingError, SamplingField};

/// Generated from `cluster.proto`; use [`wire`] to get in and out.
#[allow(missing_docs, clippy::all, clippy::disallowed_types, unreachable_pub)]
pub mod cluster {
    tonic::include_proto!("binfer.cluster.v1");
}

/// Generated from the protos that clients speak, in modules named like their packages.
#[allow(missing_docs, clippy::all, clippy::too_many_lines, unreachable_pub)]
pub mod client {
    include!(concat!(env!("OUT_DIR"), "/client_protos.rs"));
}

/// The encoded descriptors of the protos that clients speak.
pub const CLIENT_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/client_protos.bin"));
/// Version of this build, printed and compared in the handshake.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Digest of `cluster.proto`, compared in the handshake: builds that differ in it do not talk.
pub const PROTOCOL_DIGEST: &str = env!("BINFER_PROTOCOL_DIGEST");
/// Largest message either side accepts, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Steps that are planned and not answered, at most: one runs while the next is on its way.
pub const STEPS_IN_FLIGHT_MAX: usize = 2;
