//! GGUF metadata of a decoder, read and checked.

use std::path::Path;

use super::checks::{check_heads, kv_kinds, mismatch, norm_eps};
use super::family::{Described, Family, GgufForm};
use super::mixture::ffns;
use super::names::{LLAMA_CPP, Names};
use super::quantisation::Quantisation;
use super::{Decoder, rope, rope_freqs};
use crate::error::listed;
use crate::gguf::GgufMetadata;
use crate::keys::{GGUF, Unread, is_foreign, note};
use crate::rope::stretched;
use crate::spec::{Gqa, Mixer, Rope, RopeScaling};
use crate::weight_map::WeightMap;
use crate::{Error, ErrorKind, Gguf};

/// Keys after the architecture's name that are read here.
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

/// Reads the spec out of GGUF metadata and binds it to the tensors.
pub(crate) fn from_gguf(
    family: &Family,
    form: &GgufForm,
    gguf: &Gguf,
    (weight_map, path): (&mut WeightMap, &Path),
) -> Result<Described, Error> {
    let keys = Keys { metadata: &gguf.metadata, architecture: family.name, path };
    let notes = keys.judge()?;
    let refuse = mismatch(path);
    let features = (form.features)(weight_map);
    let layers = keys.positive("block_count")?;
    let kv_kinds = kv_kinds(layers, features.window, weight_map, &refuse)?;
    let (hidden, heads) =
        (keys.positive("embedding_length")?, keys.positive("attention.head_count")?);
    let (mut rope, head_dim, context_max) = keys.rope(hidden / heads)?;
    if let Some(scaling) = rope_freqs::read(weight_map, path, (rope.theta, rope.dims))? {
        if rope.scaling != RopeScaling::None {
            return Err(refuse("two kinds of rope scaling".to_owned()));
        }
        rope.scaling = scaling;
    }
    let kv_heads = keys.u32("attention.head_count_kv")?.unwrap_or(heads);
    let gqa = check_heads(Gqa { heads, kv_heads, head_dim, rope }, &refuse)?;
    let (eps_key, eps) = keys.required_float("attention.layer_norm_rms_epsilon")?;
    let decoder = Decoder {
        architecture: family.name,
        hidden,
        vocab: keys.vocab(weight_map)?,
        context_max,
        norm_eps: norm_eps(&eps_key, eps, &refuse)?,
        tied_head: weight_map.tensor("output.weight").is_none(),
        mixer: Mixer::Gqa(gqa),
        ffns: ffns(layers, None, || keys.positive("feed_forward_length"))?,
        kv_kinds,
        features,
        quantisation: Quantisation::None,
    };
    let names = Names { interleaved: form.interleaved, ..LLAMA_CPP };
    let (spec, of_tensors) = decoder.spec(&names, weight_map, path)?;
    Ok(Described { spec, notes: notes.into_iter().chain(of_tensors).collect() })
}

/// The metadata in one architecture's namespace.
struct Keys<'a> {
    metadata: &'a GgufMetadata,
    architecture: &'static str,
    path: &'a Path,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn refuse(&self, cause: String) -> Error {
        mismatch(self.path)(cause)
    }

    fn u32(&self, name: &str) -> Result<Option<u32>, Error> {
        self.metadata.u32(&self.key(name))
    }

    fn positive(&self, name: &str) -> Result<u32, Error> {
        let key = self.key(name);
        match self.metadata.required(&key, self.metadata.u32(&key))? {
            0 => Err(self.refuse(format!("metadata key {key} is 0"))),
            value => Ok(value),
        }
    }

    fn required_float(&self, name: &str) -> Result<(String, f64), Error> {
        let key = self.key(name);
        let value = self.metadata.required(&key, self.metadata.float(&key))?;
        Ok((key, value))
    }

    /// Rows of the embedding, as the file says in two places.
    fn vocab(&self, weight_map: &WeightMap) -> Result<u32, Error> {
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

    /// Rope, the width of a head, and the positions that they reach.
    fn rope(&self, head_dim: u32) -> Result<(Rope, u32, u32), Error> {
        let head_dim = self.u32("attention.key_length")?.unwrap_or(head_dim);
        let value_dim = self.u32("attention.value_length")?.unwrap_or(head_dim);
        if value_dim != head_dim {
            let cause = format!("keys of width {head_dim} and values of {value_dim} differ");
            return Err(self.refuse(cause));
        }
        let dims = self.u32("rope.dimension_count")?.unwrap_or(head_dim);
        if dims != head_dim {
            let cause = format!("rope over {dims} of {head_dim} elements is not supported yet");
            return Err(self.refuse(cause));
        }
        let key = self.key("rope.freq_base");
        let theta = self.metadata.float(&key)?.unwrap_or(rope::THETA_DEFAULT);
        if theta <= 1.0 {
            return Err(self.refuse(format!("{key} is {theta}")));
        }
        let (scaling, context_max) = self.scaling(self.positive("context_length")?)?;
        Ok((Rope { theta, dims, scaling }, head_dim, context_max))
    }

    fn scaling(&self, positions: u32) -> Result<(RopeScaling, u32), Error> {
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
                    truncate: true,
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
    fn judge(&self) -> Result<Vec<String>, Error> {
        let mut unread = Unread::default();
        for (key, value) in self.metadata.iter().filter(|(key, _)| !is_foreign(key)) {
            let shown = format!("{key} = {}", value.describe());
            let name = key.strip_prefix(self.architecture).and_then(|rest| rest.strip_prefix('.'));
            match name {
                Some(name) if UNDERSTOOD.contains(&name) => {}
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
