//! The commands, one file each: flags become requests and settings.

pub mod bench;
pub mod doctor;
pub mod exit;
mod guard;
pub mod plan;
pub mod pull;
pub mod run;
pub mod sampling;
pub mod serve;
pub mod shard;
mod table;
pub mod tips;
