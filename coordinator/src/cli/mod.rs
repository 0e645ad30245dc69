//! Commands, one file each. Flags become requests and options here; nothing is served here.

pub mod bench;
pub mod run;
pub mod serve;
