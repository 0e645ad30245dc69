//! What writer and reader of a folder of shards agree on: names, version, and the form of a spec.

use std::path::Path;

use crate::{Error, ErrorKind, ModelSpec, hf};

/// The value of `format` in every manifest.
pub(super) const FORMAT: &str = "binfer-shards";
/// The version of files and manifest. It changes if older or newer programs would misread them.
pub const LAYOUT_VERSION: u32 = 1;
/// The manifest's file name.
pub(super) const MANIFEST: &str = "manifest.json";
/// The file of a GGUF checkpoint's metadata.
pub(super) const METADATA: &str = "metadata.gguf";
/// The way out for shards that cannot be used.
pub(super) const SHARD_AGAIN: &str = "shard the model again";

/// Whether a folder holds shards, and not a checkpoint.
#[must_use]
pub fn is_shards(folder: &Path) -> bool {
    folder.join(MANIFEST).is_file() && !hf::has_weights(folder)
}

/// The name of a rank's part, where the parts of all ranks are in one weight map.
pub(crate) fn part_name(name: &str, rank: u32) -> String {
    format!("{name} of rank {rank}")
}

/// A spec in the form that the manifest has: with the numbers that JSON reads back.
pub(super) fn spec_value(spec: &ModelSpec) -> Result<serde_json::Value, Error> {
    let value = serde_json::to_string(spec).and_then(|text| serde_json::from_str(&text));
    value.map_err(|error| Error::new(ErrorKind::Format, error.to_string()))
}
