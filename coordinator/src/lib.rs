//! The process in front: command line, HTTP and gRPC, text, scheduler, fleet.
//!
//! In the order of a token's way: [`http`], [`grpc`] and [`cli`] (fronts) -> [`front`] (request
//! core) -> [`text`] -> [`serve`] (the one loop) -> [`sched`] -> [`fleet`] -> workers, and back.
//! Deliberately absent: devices. What a worker can do, the coordinator learns from the worker.

pub mod blueprint;
pub mod cli;
pub mod config;
pub mod device;
pub mod error;
mod expand;
pub mod fleet;
pub mod front;
pub mod gpu_probe;
pub mod grpc;
pub mod http;
pub mod launch;
pub mod load_meter;
pub mod locate;
pub mod memory;
pub mod meter;
pub mod metrics;
pub mod model_args;
pub mod options;
pub mod parallel;
pub mod report;
pub mod sched;
pub mod serve;
pub mod shard_cache;
pub mod signals;
pub mod text;
pub mod timing;
pub mod transport;
