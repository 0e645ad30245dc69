//! The registry: which architectures are known, and the table-making that they share.
//!
//! A family turns metadata into a [`ModelSpec`]; adding one is a file here and a line in
//! `REGISTRY`. What a family does not understand is refused by name, never ignored: a key of its
//! own namespace, a tensor without a use, a tensor of another shape.

mod llama;
mod tensors;

use std::path::Path;

use crate::error::listed;
use crate::gguf::{Metadata, Value};
use crate::{Error, ErrorKind, Gguf, ModelSpec};

/// A family's way from an opened GGUF file to a spec; the path is for messages.
type FromGguf = fn(&Gguf, &Path) -> Result<ModelSpec, Error>;

/// `general.architecture` and what reads it.
const REGISTRY: &[(&str, FromGguf)] = &[("llama", llama::from_gguf)];

/// The spec of the model in an opened GGUF file.
pub(crate) fn spec(gguf: &Gguf, path: &Path) -> Result<ModelSpec, Error> {
    let metadata = &gguf.metadata;
    let key = "general.architecture";
    let architecture = metadata.required(key, metadata.string(key))?;
    let Some((_, from_gguf)) = REGISTRY.iter().find(|(name, _)| *name == architecture) else {
        let known: Vec<&str> = REGISTRY.iter().map(|(name, _)| *name).collect();
        let cause = format!("architecture {architecture} is not supported yet");
        let error = Error::new(ErrorKind::Unsupported, cause).file(path);
        return Err(error.way_out(format!("supported: {}", known.join(", "))));
    };
    check_container(metadata, path)?;
    let spec = from_gguf(gguf, path)?;
    check_vocabulary(metadata, path, &spec)?;
    Ok(spec)
}

/// Keys outside a family's namespace that change what the file is.
fn check_container(metadata: &Metadata, path: &Path) -> Result<(), Error> {
    let refuse = |cause: String| Err(Error::new(ErrorKind::Unsupported, cause).file(path));
    if let Some(kind) = metadata.string("general.type")?
        && kind != "model"
    {
        return refuse(format!("it holds a {kind:?}, not a model"));
    }
    if let Some(parts) = metadata.u32("split.count")?
        && parts > 1
    {
        return refuse(format!("it is one of {parts} parts; split files are not supported yet"));
    }
    if let Some(version) = metadata.u32("general.quantization_version")?
        && version != 2
    {
        return refuse(format!("quantization version {version} is not supported; supported: 2"));
    }
    Ok(())
}

/// The tokenizer must not make ids that the embedding lacks. (Fewer tokens are common: padding.)
fn check_vocabulary(metadata: &Metadata, path: &Path, spec: &ModelSpec) -> Result<(), Error> {
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.map_or(0, <[String]>::len);
    if tokens <= spec.vocab as usize {
        return Ok(());
    }
    let cause = format!("{tokens} tokens, but the embedding has {} rows", spec.vocab);
    Err(Error::new(ErrorKind::Mismatch, cause).file(path))
}

/// Refuses keys `{architecture}.*` that are neither in `understood` nor at a value without effect.
fn refuse_unknown_keys(
    metadata: &Metadata,
    path: &Path,
    architecture: &str,
    understood: &[&str],
) -> Result<(), Error> {
    let refused: Vec<String> = metadata
        .iter()
        .filter_map(|(key, value)| {
            let name = key.strip_prefix(architecture)?.strip_prefix('.')?;
            let fine = understood.contains(&name) || without_effect(name, value);
            (!fine).then(|| format!("{key} = {}", value.describe()))
        })
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    let cause = format!("settings that are not supported yet: {}", listed(&refused));
    Err(Error::new(ErrorKind::Unsupported, cause).file(path))
}

/// Whether a setting says "as usual", so that ignoring it changes nothing.
fn without_effect(name: &str, value: &Value) -> bool {
    match name {
        "expert_count" | "expert_used_count" | "attention.sliding_window" => {
            matches!(value, Value::Unsigned(0))
        }
        "rope.scaling.type" => matches!(value, Value::String(kind) if kind == "none"),
        "rope.scaling.factor" | "rope.scale_linear" => matches!(value, Value::Float(1.0)),
        "rope.scaling.finetuned" => matches!(value, Value::Bool(false)),
        "attention.causal" | "use_parallel_residual" => {
            *value == Value::Bool(name == "attention.causal")
        }
        _ => false,
    }
}
