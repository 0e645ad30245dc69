//! Rope settings of `config.json`, in the spellings of all versions of transformers.
//!
//! `rope_scaling` or `rope_parameters`, `type` or `rope_type`, the base within or beside. The
//! numbers are worked out here as `modeling_rope_utils.py` does; the kind `longrope` is absent.

use crate::hf::Config;
use crate::rope::stretched;
use crate::spec::{Rope, RopeScaling};
use crate::{Error, ErrorKind};

/// When the configuration does not say.
pub(super) const THETA_DEFAULT: f64 = 10_000.0;

/// Keys of `config.json` that are read here.
pub(super) const UNDERSTOOD: &[&str] = &["rope_theta", "rope_scaling", "rope_parameters"];

/// Rope and the number of positions that it stretches to.
pub(super) fn read(config: &Config, head_dim: u32) -> Result<(Rope, u32), Error> {
    let scaling = (config.object("rope_scaling")?, config.object("rope_parameters")?);
    let ((Some(within), None) | (None, Some(within))) = &scaling else {
        if scaling.0.is_some() {
            let cause = "rope_scaling and rope_parameters: which one is meant?";
            return Err(config.error(ErrorKind::Unsupported, cause));
        }
        let theta = theta(config, config.float("rope_theta")?)?;
        let rope = Rope { theta, dims: head_dim, scaling: RopeScaling::None };
        return Ok((rope, config.positive("max_position_embeddings")?));
    };
    let said = within.float("rope_theta")?.or(config.float("rope_theta")?);
    let theta = theta(config, said)?;
    let (scaling, context_max) = kind(config, within)?;
    if matches!(scaling, RopeScaling::Dynamic { .. }) && head_dim <= 2 {
        let cause = format!("dynamic rope scaling of heads of {head_dim}");
        return Err(config.error(ErrorKind::Mismatch, cause));
    }
    Ok((Rope { theta, dims: head_dim, scaling }, context_max))
}

fn theta(config: &Config, said: Option<f64>) -> Result<f64, Error> {
    let theta = said.unwrap_or(THETA_DEFAULT);
    if theta > 1.0 {
        return Ok(theta);
    }
    Err(config.error(ErrorKind::Mismatch, format!("rope_theta is {theta}")))
}

/// The kind of scaling, by name, and the positions it stretches to.
fn kind(config: &Config, within: &Config) -> Result<(RopeScaling, u32), Error> {
    let positions = config.positive("max_position_embeddings")?;
    let original = || {
        let key = "original_max_position_embeddings";
        Ok::<u32, Error>(if within.u32(key)?.is_some() { within.positive(key)? } else { positions })
    };
    let number = |key| positive(within, key, within.required(key, within.float(key))?);
    let common = &["rope_theta", "rope_type", "type"][..];
    let only = |keys: &[&str]| {
        within.refuse_unknown(&[common, keys], |key, value| {
            key == "partial_rotary_factor" && value.as_f64() == Some(1.0)
        })
    };
    let name = within.string("rope_type")?.or(within.string("type")?).unwrap_or("default");
    match name {
        "default" => {
            only(&[])?;
            Ok((RopeScaling::None, positions))
        }
        "linear" => {
            only(&["factor"])?;
            let factor = number("factor")?;
            Ok((RopeScaling::Linear { factor }, stretched(positions, factor)))
        }
        "dynamic" => {
            only(&["factor"])?;
            let (factor, original_context) = (number("factor")?, positions);
            let longest = original_context;
            Ok((RopeScaling::Dynamic { factor, original_context, longest }, positions))
        }
        "llama3" => {
            let key = "original_max_position_embeddings";
            only(&["factor", "low_freq_factor", "high_freq_factor", key])?;
            let scaling = RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_context: within.positive(key)?,
            };
            Ok((scaling, positions))
        }
        "yarn" => {
            let key = "original_max_position_embeddings";
            let keys = ["factor", "attention_factor", "beta_fast", "beta_slow", key];
            only(&keys)?;
            let (factor, original_context) = (number("factor")?, original()?);
            let scaling = yarn(within, factor, original_context)?;
            Ok((scaling, positions.max(stretched(original_context, factor))))
        }
        other => {
            let cause = format!("rope scaling {other:?} is not supported yet");
            let error = config.error(ErrorKind::Unsupported, cause);
            Err(error.way_out("supported: default, linear, dynamic, llama3, yarn"))
        }
    }
}

fn yarn(within: &Config, factor: f64, original_context: u32) -> Result<RopeScaling, Error> {
    let number = |key, default| positive(within, key, within.float(key)?.unwrap_or(default));
    Ok(RopeScaling::Yarn {
        factor,
        original_context,
        beta_fast: number("beta_fast", YARN_BETAS[0])?,
        beta_slow: number("beta_slow", YARN_BETAS[1])?,
        attention_factor: number("attention_factor", yarn_attention_factor(factor))?,
    })
}

/// `YaRN`'s fast and slow turns unless said otherwise.
pub(super) const YARN_BETAS: [f64; 2] = [32.0, 1.0];

/// `YaRN`'s attention factor unless said otherwise.
pub(super) fn yarn_attention_factor(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

fn positive(within: &Config, key: &str, value: f64) -> Result<f64, Error> {
    if value > 0.0 {
        return Ok(value);
    }
    Err(within.error(ErrorKind::Mismatch, format!("{key} of the rope scaling is {value}")))
}
