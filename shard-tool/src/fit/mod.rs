//! The fit planner: what a model takes on its ranks, worked out of its description alone.
//!
//! | module | is |
//! |---|---|
//! | `memory` | bytes of a position of KV cache, blocks within a budget |
//! | `activations` | the activation arena of the largest step |
//! | `rank_ledger` | what one rank holds |
//! | `ledger` | one rank count on given memory: what each rank holds, what is left for KV |
//! | `choose` | how many cards a model wants (`--tp auto`) |
//! | `roofline` | what a step reads, and so the least time for a token |
//! | `cards` | memory and bandwidth of known cards |
//!
//! Workers, the coordinator and `binfer plan` use the same functions, so a plan is what will be.
//! Deliberately absent: devices that are asked. Everything here is arithmetic.

mod activations;
mod cards;
mod choose;
mod ledger;
mod memory;
mod rank_ledger;
mod roofline;

pub use activations::{ActivationArena, ArenaTensor};
pub use cards::{CARDS, Card};
pub use choose::{Choice, choose};
pub use ledger::{
    COLLECTIVES_BYTES, CONTEXT_BYTES, DRIVER_BYTES, FitLimits, HostMemory, KvBudget, Ledger,
    Memory, PROCESS_BYTES,
};
pub use memory::{
    KvDemand, blocks_within, kv_bytes, kv_bytes_for, kv_position_bytes, kv_shapes, kv_tokens,
    kv_window_bytes, sequences_within,
};
pub use rank_ledger::RankLedger;
pub use roofline::{step_read_bytes, touched_bytes};
