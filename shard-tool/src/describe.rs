//! What a model is made of, also where its weights are not here.

use std::path::Path;

use crate::{Checkpoint, Error, ModelSpec, hf, shards};

/// A model's description and where it comes from.
#[derive(Clone, Debug)]
pub struct Description {
    /// What it is made of.
    pub spec: ModelSpec,
    /// What a person should hear of the settings, such as those that were ignored: whole lines.
    pub notes: Vec<String>,
    /// There are no weights: tensors are those that `config.json` calls for, of the type it names.
    pub assumed: bool,
    /// It lies in shards, for so many ranks and no others.
    pub shards_world: Option<u32>,
}

/// Describes a checkpoint, or a folder of which only `config.json` is there.
///
/// # Errors
/// As [`Checkpoint::open`].
pub fn describe(path: &Path) -> Result<Description, Error> {
    if !path.is_dir() || shards::is_shards(path) || hf::has_weights(path) {
        let source = Checkpoint::open(path)?;
        return Ok(Description::of(&source, false));
    }
    Ok(Description::of(&Checkpoint::assumed(path)?, true))
}

impl Description {
    fn of(source: &Checkpoint, assumed: bool) -> Self {
        let (spec, notes) = (source.spec().clone(), source.notes().to_vec());
        Self { spec, notes, assumed, shards_world: source.shards_world() }
    }
}
