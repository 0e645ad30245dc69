//! Behaviour of the crate through its public face, in one binary (one link).
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "sizes are ours, a panic is a failed test"
)]

#[path = "../support/folder_writer.rs"]
mod folder_writer;
#[path = "../support/gguf_writer.rs"]
mod gguf_writer;
#[path = "../support/hub_server.rs"]
mod hub_server;

mod command;
mod configs;
mod damage;
mod dequant;
mod families;
mod files;
mod fit;
mod folder;
mod gguf_families;
mod gguf_keys;
mod hostile;
mod hub;
mod large;
mod layout;
mod mixtures;
mod model;
mod read_ahead;
mod reader;
mod safetensors;
mod shard_faults;
mod shards;
mod slicer;
mod source;
mod split;
mod tied;
mod unread;
mod views;

use std::path::PathBuf;

/// A file of this test's own, in the build folder.
fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}
