//! The registry: which architectures are known, and what sets each apart.
//!
//! A family is a table of what it has that others lack; adding one is a file here and a line in
//! `REGISTRY`. What a family does not understand is refused by name, never ignored: a setting, a
//! tensor without a use, a tensor of another shape.

mod deepseek_v2;
mod deepseek_v3;
mod gpt_oss;
mod llama;
mod mistral;
mod mixtral;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;

use std::path::Path;

use crate::decoder::{self, WindowLayers};
pub(crate) use crate::decoder::{Described, Family};
use crate::gguf::GgufMetadata;
use crate::hf::ConfigJson;
use crate::weight_map::WeightMap;
use crate::{Error, ErrorKind, Gguf, ModelSpec};

const REGISTRY: &[&Family] = &[
    &deepseek_v2::FAMILY,
    &deepseek_v3::FAMILY,
    &gpt_oss::FAMILY,
    &llama::FAMILY,
    &mistral::FAMILY,
    &mixtral::FAMILY,
    &qwen2::FAMILY,
    &qwen2_moe::FAMILY,
    &qwen3::FAMILY,
    &qwen3_moe::FAMILY,
];

/// The spec of the model in an opened GGUF file.
pub(crate) fn of_gguf(
    gguf: &Gguf,
    weight_map: &mut WeightMap,
    path: &Path,
) -> Result<Described, Error> {
    let metadata = &gguf.metadata;
    let key = "general.architecture";
    let architecture = metadata.required(key, metadata.string(key))?;
    let known = || REGISTRY.iter().filter_map(|family| Some((*family, family.gguf.as_ref()?)));
    let Some((family, form)) = known().find(|(_, form)| form.name == architecture) else {
        let known: Vec<&str> = known().map(|(_, form)| form.name).collect();
        let cause = format!("architecture {architecture} is not supported yet");
        let error = Error::new(ErrorKind::Unsupported, cause).file(path);
        return Err(error.way_out(format!("supported: {}", known.join(", "))));
    };
    check_container(metadata, path)?;
    let described = decoder::from_gguf(family, form, gguf, (weight_map, path))?;
    check_vocabulary(metadata, path, &described.spec)?;
    Ok(described)
}

/// The family that config.json names.
pub(crate) fn of_class(config: &ConfigJson) -> Result<&'static Family, Error> {
    let class = config.strings("architectures")?.and_then(|classes| classes.first().copied());
    let model_type = config.string("model_type")?;
    let Some(named) = class.or(model_type) else {
        let cause = "neither architectures nor model_type says what it is";
        return Err(config.error(ErrorKind::Format, cause));
    };
    let is = |family: &&&Family| {
        class.is_none_or(|class| class == family.class)
            && model_type.is_none_or(|name| name == family.name)
    };
    if let Some(family) = REGISTRY.iter().find(is) {
        return Ok(family);
    }
    let known: Vec<&str> = REGISTRY.iter().map(|family| family.class).collect();
    let of_type = model_type.map(|name| format!(" (model_type {name})")).unwrap_or_default();
    let cause = format!("architecture {named}{of_type} is not supported yet");
    let error = config.error(ErrorKind::Unsupported, cause);
    Err(error.way_out(format!("supported: {}", known.join(", "))))
}

/// The spec of the model in a Hugging Face folder.
pub(crate) fn of_config(
    family: &Family,
    config: &ConfigJson,
    weight_map: &mut WeightMap,
) -> Result<Described, Error> {
    decoder::from_config(family, config, weight_map)
}

/// Positions of a window; where nothing is said, as transformers' classes have it. Null is none.
fn sliding_window(config: &ConfigJson) -> Result<Option<u32>, Error> {
    let absent = (!config.has("sliding_window")).then_some(4096);
    Ok(config.u32("sliding_window")?.or(absent))
}

/// Qwen's way to say a window: it counts only where it is switched on. `layers` says on which
/// layers it is, out of `max_window_layers`.
fn switched_window(
    config: &ConfigJson,
    layers: impl FnOnce(u32) -> WindowLayers,
) -> Result<Option<decoder::Window>, Error> {
    let (positions, limit) = (sliding_window(config)?, config.u32("max_window_layers")?);
    if !config.bool("use_sliding_window")?.unwrap_or(false) {
        return Ok(None);
    }
    let layers = layers(limit.unwrap_or(28));
    positions.map(|positions| window_on(config, positions, layers)).transpose()
}

fn window_on(
    config: &ConfigJson,
    positions: u32,
    layers: WindowLayers,
) -> Result<decoder::Window, Error> {
    if positions == 0 {
        return Err(config.error(ErrorKind::Mismatch, "sliding_window is 0"));
    }
    Ok(decoder::Window { positions, layers })
}

/// Keys outside a family's namespace that change what the file is.
fn check_container(metadata: &GgufMetadata, path: &Path) -> Result<(), Error> {
    let refuse = |cause: String| Err(Error::new(ErrorKind::Unsupported, cause).file(path));
    if let Some(kind) = metadata.string("general.type")?
        && kind != "model"
    {
        return refuse(format!("it holds a {kind:?}, not a model"));
    }
    if let Some(version) = metadata.u32("general.quantization_version")?
        && version != 2
    {
        return refuse(format!("quantization version {version} is not supported; supported: 2"));
    }
    Ok(())
}

/// The tokenizer must not make ids that the embedding lacks. (Fewer tokens are common: padding.)
fn check_vocabulary(metadata: &GgufMetadata, path: &Path, spec: &ModelSpec) -> Result<(), Error> {
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.map_or(0, <[String]>::len);
    if tokens <= spec.vocab as usize {
        return Ok(());
    }
    let cause = format!("{tokens} tokens, but the embedding has {} rows", spec.vocab);
    Err(Error::new(ErrorKind::Mismatch, cause).file(path))
}
