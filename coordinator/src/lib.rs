//! placeholder
pub mod front;
pub mod sched;
pub mod text;
