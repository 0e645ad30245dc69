//! One rank: takes plans over gRPC, runs the model on its backend, returns results.
//!
//! The coordinator starts a worker with [`run`], which dials it on the [`link`]. The
//! [`engine_loop`] runs on a thread of its own and begins with the [`handshake`]: load, join the
//! other ranks, allocate. Then each plan is one step of the [`engine`]: [`slots`] checks it and
//! packs a [`batch`], [`forward`] calls the [`layers`], and these call the operations of the
//! [`backend`]. The [`step_queue`] keeps steps in their order, two in flight at most, and hands out
//! results. Nothing is decided here: what runs, where it lies and how it is sampled stands in the
//! plan.

pub mod args;
pub mod backend;
pub mod batch;
pub mod devices;
pub mod engine;
pub mod engine_loop;
pub mod forward;
pub mod handshake;
pub mod layers;
pub mod link;
pub mod memory;
pub mod model;
pub mod port;
pub mod progress;
pub mod run;
pub mod slots;
pub mod step_queue;
