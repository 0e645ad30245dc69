//! What a device must do, the arguments with their contracts, and the devices that do it.
//!
//! The interface is split by who calls it:
//!
//! | trait | is called by |
//! |---|---|
//! | [`Backend`] | the decoder loop, and the engine's step around it |
//! | [`GraphCapture`] | the engine, before the first step |
//! | [`RankDevice`] | the handshake: load, join, allocate |
//! | [`DeviceClock`] | `timed/`, which measures operations |
//!
//! Arguments are plain structs of handles ([`args`]), so models are not generic and no backend type
//! spreads.

pub mod args;
pub mod call_recorder;
pub mod check;
pub mod check_batch;
mod check_experts;
pub mod cpu;
pub mod cuda;
mod error;
mod graph_capture;
mod memory_layout;
mod operations;
pub mod penalties;
mod random_weights;
mod rank_device;
mod ready_device;
pub mod rope;
mod step_output;
#[cfg(test)]
mod tests;
pub mod timed;

pub use args::Weight;
pub use check_experts::MoeShapes;
pub use error::BackendError;
pub use graph_capture::GraphCapture;
pub use memory_layout::{KvHeadsLayout, KvLayerLayout, MemoryLayout};
pub use operations::Backend;
pub use rank_device::{Abort, DeviceClock, Peaks, RankDevice};
pub use ready_device::ReadyDevice;
pub use step_output::{Sampled, StepMode, StepOutcome, Ticket};
