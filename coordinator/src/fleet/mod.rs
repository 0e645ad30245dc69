//! The workers of one replica: started, sent plans, listened to and ended together.
//!
//! [`Fleet::start`] runs the handshake. Then [`Fleet::send`] broadcasts a plan, and [`Fleet::next`]
//! waits for a step on which all ranks agree, or for the first sign that a rank is lost. All of it
//! runs on the serve loop's runtime. There is no recovery: a fleet that has lost a rank is over.

mod aggregator;
mod config;
mod error;
mod handshake;
mod rank;
mod rendezvous;
mod server;
mod socket;
mod spawn;
mod suspects;
mod watchdog;
mod workers;

pub use config::{CudaConfig, FleetConfig, LoadConfig, Spawn};
pub use error::FleetError;
pub use handshake::{FleetInfo, LoadProgress};
pub use rendezvous::Rendezvous;
pub use spawn::through_pipe;
pub use workers::Fleet;
