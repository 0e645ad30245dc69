//! One rank: takes plans over gRPC, runs the model on its backend, returns results.
//!
//! In the order of a token's way: [`link`] (gRPC) -> [`steps`] -> [`engine`] -> [`slots`] (plan to [`batch`]) ->
//! [`forward`] (one decoder loop) -> [`layers`] -> [`backend`]. Deliberately absent: any decision.
//! What runs, where it lies and how it is sampled stands in the plan.

pub mod args;
pub mod backend;
pub mod batch;
pub mod devices;
pub mod engine;
pub mod forward;
pub mod layers;
pub mod link;
pub mod memory;
pub mod model;
pub mod progress;
pub mod setup;
pub mod slots;
pub mod steps;
