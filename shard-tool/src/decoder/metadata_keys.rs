//! Typed access to the metadata in one architecture's namespace.

use std::path::Path;

use super::checks::mismatch;
use super::rope;
use crate::error::listed;
use crate::gguf::GgufMetadata;
use crate::keys::{GGUF, Unread, is_foreign, note};
use crate::rope::stretched;
use crate::spec::{Rope, RopeScaling};
use crate::weight_map::WeightMap;
use crate::{Error, ErrorKind};

/// Keys after the architecture's name that are read for every architecture.
const UNDERSTOOD: &[&str] = &[
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
];

/// The metadata in one architecture's namespace.
pub(super) struct MetadataKeys<'a> {
    pub(super) metadata: &'a GgufMetadata,
    pub(super) architecture: &'static str,
    pub(super) path: &'a Path,
}

impl MetadataKeys<'_> {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(super) fn refuse(&self, cause: String) -> Error {
        mismatch(self.path)(cause)
    }

    pub(super) fn u32(&self, name: &str) -> Result<Option<u32>, Error> {
        self.metadata.u32(&self.key(name))
    }

    pub(super) fn positive(&self, name: &str) -> Result<u32, Error> {
        let key = self.key(name);
        match self.metadata.required(&key, self.metadata.u32(&key))? {
            0 => Err(self.refuse(format!("metadata key {key} is 0"))),
            value => Ok(value),
        }
    }

    pub(super) fn required_float(&self, name: &str) -> Result<(String, f64), Error> {
        let key = self.key(name);
        let value = self.metadata.required(&key, self.metadata.float(&key))?;
        Ok((key, value))
    }

    /// Rows of the embedding, as the file says in two places.
    pub(super) fn vocab(&self, weight_map: &WeightMap) -> Result<u32, Error> {
        let rows = weight_map.tensor("token_embd.weight").map_or(0, |tensor| tensor.rows());
        let vocab = u32::try_from(rows).map_err(|_| self.refuse(format!("{rows} embeddings")))?;
        match self.u32("vocab_size")? {
            Some(said) if said != vocab => {
                let key = self.key("vocab_size");
                Err(self.refuse(format!("{key} is {said}, but {vocab} embeddings")))
            }
            _ => Ok(vocab),
        }
    }

    /// Rope, and the positions that it reaches; `dims` where nothing says how much rotates.
    pub(super) fn rope(&self, dims: u32, truncate: bool) -> Result<(Rope, u32), Error> {
        let dims = self.u32("rope.dimension_count")?.unwrap_or(dims);
        let key = self.key("rope.freq_base");
        let theta = self.metadata.float(&key)?.unwrap_or(rope::THETA_DEFAULT);
        if theta <= 1.0 {
            return Err(self.refuse(format!("{key} is {theta}")));
        }
        let (scaling, context_max) = self.scaling(self.positive("context_length")?, truncate)?;
        Ok((Rope { theta, dims, scaling }, context_max))
    }

    /// What latent attention multiplies its scores by besides. llama.cpp has one multiplier for
    /// `mscale` and `mscale_all_dim`, a tenth of them; where both are the same, cosines and sines
    /// keep their size.
    pub(super) fn latent_score_factor(&self, scaling: &mut RopeScaling) -> Result<f64, Error> {
        let key = self.key("rope.scaling.yarn_log_multiplier");
        let multiplier = self.metadata.float(&key)?.filter(|multiplier| *multiplier != 0.0);
        let RopeScaling::Yarn { factor, attention_factor, .. } = scaling else { return Ok(1.0) };
        let Some(multiplier) = multiplier else { return Ok(1.0) };
        *attention_factor = 1.0;
        let size = rope::yarn_size(*factor, 10.0 * multiplier);
        if size > 0.0 && size.is_finite() {
            Ok(size * size)
        } else {
            Err(self.refuse(format!("{key} is {multiplier}")))
        }
    }

    fn scaling(&self, positions: u32, truncate: bool) -> Result<(RopeScaling, u32), Error> {
        let key = self.key("rope.scaling.type");
        let kind = self.metadata.string(&key)?.unwrap_or("none");
        if kind == "none" {
            return Ok((RopeScaling::None, positions));
        }
        let (factor_key, factor) = self.required_float("rope.scaling.factor")?;
        if factor <= 0.0 {
            return Err(self.refuse(format!("{factor_key} is {factor}")));
        }
        match kind {
            "linear" => Ok((RopeScaling::Linear { factor }, stretched(positions, factor))),
            "yarn" => {
                let original_context = self.u32("rope.scaling.original_context_length")?;
                let original_context = original_context.unwrap_or(positions).max(1);
                let scaling = RopeScaling::Yarn {
                    factor,
                    original_context,
                    beta_fast: self.beta("yarn_beta_fast", rope::YARN_BETAS[0])?,
                    beta_slow: self.beta("yarn_beta_slow", rope::YARN_BETAS[1])?,
                    attention_factor: rope::yarn_size(factor, 1.0),
                    truncate,
                };
                Ok((scaling, positions.max(stretched(original_context, factor))))
            }
            other => {
                let cause = format!("{key} {other:?} is not supported yet");
                Err(Error::new(ErrorKind::Unsupported, cause).file(self.path))
            }
        }
    }

    /// Turns within the original context at a bound of `YaRN`'s ramp.
    fn beta(&self, name: &str, default: f64) -> Result<f64, Error> {
        let key = self.key(&format!("rope.scaling.{name}"));
        match self.metadata.float(&key)?.unwrap_or(default) {
            turns if turns > 0.0 => Ok(turns),
            turns => Err(self.refuse(format!("{key} is {turns}"))),
        }
    }

    /// Refuses keys that nobody understands and that may matter; notes of those that are ignored.
    pub(super) fn judge(&self, also: &[&[&str]]) -> Result<Vec<String>, Error> {
        let understood =
            |name: &str| UNDERSTOOD.contains(&name) || also.iter().any(|keys| keys.contains(&name));
        let mut unread = Unread::default();
        for (key, value) in self.metadata.iter().filter(|(key, _)| !is_foreign(key)) {
            let shown = format!("{key} = {}", value.describe());
            let name = key.strip_prefix(self.architecture).and_then(|rest| rest.strip_prefix('.'));
            match name {
                Some(name) if understood(name) => {}
                Some(name) => unread.sort_in(GGUF, (name, value.into()), shown),
                None => unread.ignored.push(shown),
            }
        }
        if unread.refused.is_empty() {
            return Ok(note(self.path, &unread.ignored));
        }
        let cause = format!("settings that are not supported yet: {}", listed(&unread.refused));
        Err(Error::new(ErrorKind::Unsupported, cause).file(self.path))
    }
}
