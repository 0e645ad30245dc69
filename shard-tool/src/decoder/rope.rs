//! Rope settings of `config.json`, in the spellings of all versions of transformers.
//!
//! `rope_scaling` or `rope_parameters` (or both, if they mean the same), `type` or `rope_type`, for
//! the whole model or by layer type, the base within or beside. What each means is what
//! `modeling_rope_utils.py` makes of it: `tests/fixtures/rope` has its numbers. The kinds
//! `longrope` and `proportional` are absent.

use crate::hf::ConfigJson;
use crate::keys::CONFIG_JSON_ROPE;
use crate::rope::stretched;
use crate::spec::{KvKind, Rope, RopeScaling};
use crate::{Error, ErrorKind};

/// The base where neither the configuration nor the family says one.
pub(crate) const THETA_DEFAULT: f64 = 10_000.0;

/// The key of the context that the model was trained for, before scaling.
const ORIGINAL: &str = "original_max_position_embeddings";

/// Keys of `config.json` that are read here.
pub(super) const UNDERSTOOD: &[&str] = &["rope_theta", "rope_scaling", "rope_parameters", ORIGINAL];

/// The rope of a model, and what goes with it.
#[derive(Clone, Debug)]
pub(super) struct RopeSettings {
    pub(super) rope: Rope,
    /// The positions that the rope is stretched to.
    pub(super) context_max: u32,
    /// What latent attention multiplies its scores by besides.
    pub(super) score_factor: f64,
    /// Settings without effect that a person should hear of.
    pub(super) ignored: Vec<String>,
}

impl RopeSettings {
    fn means(&self, other: &Self) -> bool {
        (self.rope, self.context_max, self.score_factor)
            == (other.rope, other.context_max, other.score_factor)
    }
}

/// The settings around those of the rope.
#[derive(Clone, Copy)]
pub(super) struct RopeContext<'a> {
    pub(super) config: &'a ConfigJson,
    pub(super) head_dim: u32,
    /// `max_position_embeddings`, or its default.
    pub(super) positions: u32,
    /// The base where the configuration does not say one.
    pub(super) theta: f64,
    /// Which positions each layer's cache keeps, which is what transformers calls its type.
    pub(super) kv_kinds: &'a [KvKind],
}

/// Reads the rope settings.
pub(super) fn read(context: RopeContext<'_>) -> Result<RopeSettings, Error> {
    let config = context.config;
    let mut found: Option<RopeSettings> = None;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(within) = config.object(key)?.filter(|within| within.iter().next().is_some())
        else {
            continue;
        };
        let settings = context.whole_or_by_layer_type(&within)?;
        match &found {
            Some(other) if !other.means(&settings) => {
                let cause = "rope_scaling and rope_parameters differ: which one is meant?";
                return Err(config.error(ErrorKind::Unsupported, cause));
            }
            Some(_) => {}
            None => found = Some(settings),
        }
    }
    if let Some(settings) = found {
        return Ok(settings);
    }
    let (context_max, ignored) = (context.positions, Vec::new());
    let rope = context.rope(config.float("rope_theta")?, RopeScaling::None)?;
    Ok(RopeSettings { rope, context_max, score_factor: 1.0, ignored })
}

impl RopeContext<'_> {
    /// One object for all layers, or an object of them by layer type.
    fn whole_or_by_layer_type(self, within: &ConfigJson) -> Result<RopeSettings, Error> {
        if !within.iter().any(|(_, value)| value.is_object()) {
            return self.one(within);
        }
        let flat = within.iter().filter(|(_, value)| !value.is_object());
        let flat: Vec<String> = flat.map(|(key, value)| within.shown(key, value)).collect();
        if !flat.is_empty() {
            return Err(self.config.not_supported(&flat));
        }
        let name = |kind: &KvKind| match kind {
            KvKind::Full => "full_attention",
            KvKind::Window(_) => "sliding_attention",
        };
        let mut types: Vec<&str> = self.kv_kinds.iter().map(name).collect();
        types.sort_unstable();
        types.dedup();
        let mut found: Option<RopeSettings> = None;
        for layer_type in types {
            let settings = self.one(&within.required(layer_type, within.object(layer_type))?)?;
            if found.as_ref().is_some_and(|other| !other.means(&settings)) {
                let cause = "another rope for each layer type is not supported yet";
                return Err(self.config.error(ErrorKind::Unsupported, cause));
            }
            found = Some(settings);
        }
        within.required("full_attention", Ok(found))
    }

    fn one(self, within: &ConfigJson) -> Result<RopeSettings, Error> {
        let name = within.string("rope_type")?.or(within.string("type")?).unwrap_or("default");
        let Some(kind) = SCALING_KINDS.iter().find(|kind| kind.name == name) else {
            let cause = format!("rope scaling {name:?} is not supported yet");
            let known: Vec<&str> = SCALING_KINDS.iter().map(|kind| kind.name).collect();
            let error = self.config.error(ErrorKind::Unsupported, cause);
            return Err(error.way_out(format!("supported: {}", known.join(", "))));
        };
        let common = &["rope_theta", "rope_type", "type"];
        let ignored = within.judge(&[common, kind.keys], CONFIG_JSON_ROPE)?;
        let scope = Scope { context: self, within };
        let (scaling, context_max) = (kind.read)(&scope)?;
        let score_factor = scope.score_factor(scaling)?;
        let theta = within.float("rope_theta")?.or(self.config.float("rope_theta")?);
        let rope = self.rope(theta, scaling)?;
        Ok(RopeSettings { rope, context_max, score_factor, ignored })
    }

    fn rope(self, theta: Option<f64>, scaling: RopeScaling) -> Result<Rope, Error> {
        let (theta, dims) = (theta.unwrap_or(self.theta), self.head_dim);
        let refuse = |cause| Err(self.config.error(ErrorKind::Mismatch, cause));
        if theta <= 1.0 {
            return refuse(format!("rope_theta is {theta}"));
        }
        if matches!(scaling, RopeScaling::Dynamic { .. }) && dims <= 2 {
            return refuse(format!("dynamic rope scaling of heads of {dims}"));
        }
        Ok(Rope { theta, dims, scaling })
    }
}

/// A kind of scaling: its name, the keys that transformers reads, and how they are read.
struct ScalingKind {
    name: &'static str,
    keys: &'static [&'static str],
    read: fn(&Scope<'_>) -> Result<(RopeScaling, u32), Error>,
}

const SCALING_KINDS: &[ScalingKind] = &[
    ScalingKind {
        name: "default",
        keys: &[],
        read: |scope| Ok((RopeScaling::None, scope.context.positions)),
    },
    ScalingKind { name: "linear", keys: &["factor"], read: linear },
    ScalingKind {
        name: "dynamic",
        keys: &["factor"],
        read: |scope| {
            let (factor, positions) = (scope.number("factor")?, scope.context.positions);
            let scaling =
                RopeScaling::Dynamic { factor, original_context: positions, longest: positions };
            Ok((scaling, positions))
        },
    },
    ScalingKind {
        name: "llama3",
        keys: &["factor", "low_freq_factor", "high_freq_factor", ORIGINAL],
        read: |scope| {
            let scaling = RopeScaling::Llama3 {
                factor: scope.number("factor")?,
                low_freq_factor: scope.number("low_freq_factor")?,
                high_freq_factor: scope.number("high_freq_factor")?,
                original_context: scope.original()?.unwrap_or(scope.context.positions),
            };
            Ok((scaling, scope.context.positions))
        },
    },
    ScalingKind {
        name: "yarn",
        keys: &[
            "factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
            ORIGINAL,
        ],
        read: yarn,
    },
];

/// The JSON object that is read, and the settings around it.
struct Scope<'a> {
    context: RopeContext<'a>,
    within: &'a ConfigJson,
}

impl Scope<'_> {
    /// A number above 0 that must be there.
    fn number(&self, key: &str) -> Result<f64, Error> {
        let number = self.within.required(key, self.within.float(key))?;
        self.positive(key, number)
    }

    fn positive(&self, key: &str, value: f64) -> Result<f64, Error> {
        if value > 0.0 && value.is_finite() {
            return Ok(value);
        }
        let cause = format!("{key} of the rope scaling is {value}");
        Err(self.within.error(ErrorKind::Mismatch, cause))
    }

    /// A number; Python code takes a 0 for absent.
    fn unless_zero(&self, key: &str) -> Result<Option<f64>, Error> {
        Ok(self.within.float(key)?.filter(|number| *number != 0.0))
    }

    /// The square of what DeepSeek multiplies queries and keys by, where scaling is `YaRN`'s.
    fn score_factor(&self, scaling: RopeScaling) -> Result<f64, Error> {
        let RopeScaling::Yarn { factor, .. } = scaling else { return Ok(1.0) };
        let size = self.unless_zero("mscale_all_dim")?.map_or(1.0, |all| yarn_size(factor, all));
        self.positive("mscale_all_dim", size * size)
    }

    /// The original context, if there is one; the key outside of the object goes first, as in
    /// transformers.
    fn original(&self) -> Result<Option<u32>, Error> {
        for config in [self.context.config, self.within] {
            if config.get(ORIGINAL).is_some() {
                return config.positive(ORIGINAL).map(Some);
            }
        }
        Ok(None)
    }
}

fn linear(scope: &Scope<'_>) -> Result<(RopeScaling, u32), Error> {
    let (factor, positions) = (scope.number("factor")?, scope.context.positions);
    let context_max = match scope.original()? {
        Some(original) => positions.max(stretched(original, factor)),
        None => stretched(positions, factor),
    };
    Ok((RopeScaling::Linear { factor }, context_max))
}

fn yarn(scope: &Scope<'_>) -> Result<(RopeScaling, u32), Error> {
    let (positions, said) = (scope.context.positions, scope.original()?);
    let original_context = said.unwrap_or(positions);
    let factor = match (scope.within.float("factor")?, said) {
        (None, Some(original)) => f64::from(positions) / f64::from(original),
        _ => scope.number("factor")?,
    };
    let attention_factor = match scope.within.float("attention_factor")? {
        Some(said) => said,
        None => match (scope.unless_zero("mscale")?, scope.unless_zero("mscale_all_dim")?) {
            (Some(size), Some(all)) => yarn_size(factor, size) / yarn_size(factor, all),
            _ => yarn_size(factor, 1.0),
        },
    };
    let beta = |key: &str, default| {
        let number = scope.unless_zero(key)?.unwrap_or(default);
        scope.positive(key, number)
    };
    let scaling = RopeScaling::Yarn {
        factor,
        original_context,
        beta_fast: beta("beta_fast", YARN_BETAS[0])?,
        beta_slow: beta("beta_slow", YARN_BETAS[1])?,
        attention_factor: scope.positive("attention_factor", attention_factor)?,
        // Null is false to Python.
        truncate: scope.within.bool("truncate")?.unwrap_or(!scope.within.has("truncate")),
    };
    Ok((scaling, positions.max(stretched(original_context, factor))))
}

/// The defaults of `YaRN`'s `beta_fast` and `beta_slow`.
pub(super) const YARN_BETAS: [f64; 2] = [32.0, 1.0];

/// What `YaRN` multiplies cosines and sines by; `scale` is `mscale`, by default 1.
pub(super) fn yarn_size(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}
