//! Measuring of operations, for `--profile` and `--trace`: a backend around a device.
//!
//! The device notes the time between operations ([`DeviceClock`](super::DeviceClock)), in CUDA
//! graphs too, so what is timed is what runs. Only the overlap of neighbouring kernels is lost.
//! Nothing of this exists unless one of the two flags asks for it.

mod backend;
mod cost;
mod profile;
mod step_times;
mod table;
#[cfg(test)]
mod tests;
mod trace;

pub use backend::TimedBackend;
pub use step_times::{StepTimes, TimedSettings};
