//! Commands, one file each. Flags become requests and options here; nothing is served here.

pub mod bench;
pub mod doctor;
pub mod exit;
pub mod plan;
pub mod pull;
pub mod run;
pub mod serve;
pub mod shard;
mod table;
pub mod tips;
