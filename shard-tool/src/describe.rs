//! The description of a model, also where its weights are not here.

use std::path::Path;

use crate::shards::format::is_shards;
use crate::{Checkpoint, Error, ModelSpec, hf};

/// A model's description, and what it was made of.
#[derive(Clone, Debug)]
pub struct Description {
    /// The description of layers and tensors.
    pub spec: ModelSpec,
    /// Lines for the user about the settings, such as those that were ignored.
    pub notes: Vec<String>,
    /// Whether there are no weights, and the tensors that `config.json` calls for are assumed.
    pub assumed: bool,
    /// The number of ranks that the model is sharded for. `None` if it is not sharded.
    pub shards_world: Option<u32>,
}

/// Describes a checkpoint, or a folder of which only `config.json` is there.
///
/// # Errors
/// Those of [`Checkpoint::open`].
pub fn describe(path: &Path) -> Result<Description, Error> {
    if !path.is_dir() || is_shards(path) || hf::has_weights(path) {
        let source = Checkpoint::open(path)?;
        return Ok(Description::of(&source, false));
    }
    Ok(Description::of(&Checkpoint::assumed(path)?, true))
}

impl Description {
    fn of(source: &Checkpoint, assumed: bool) -> Self {
        Self {
            spec: source.spec().clone(),
            notes: source.notes().to_vec(),
            assumed,
            shards_world: source.shards_world(),
        }
    }
}
