//! How `config.json` says that weights are quantised.

use super::names::TensorRole;
use crate::hf::ConfigJson;
use crate::{DType, Error, ErrorKind};

/// The key of the settings.
pub(super) const QUANTISATION: &str = "quantization_config";

/// How a checkpoint's weights are quantised. What each tensor is its header says; where there is
/// none, this does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Quantisation {
    /// Not at all, or as the headers of GGUF say.
    #[default]
    None,
    /// Experts in MXFP4.
    Mxfp4,
    /// Products of layers in FP8, with a scale for each 128 rows and columns.
    Fp8,
}

impl Quantisation {
    /// Reads `quantization_config`.
    pub(super) fn read(config: &ConfigJson) -> Result<Self, Error> {
        let Some(within) = config.object(QUANTISATION)? else { return Ok(Self::None) };
        if within.iter().next().is_none() {
            return Ok(Self::None);
        }
        let whole = || {
            let value = config.get(QUANTISATION);
            value.map(|value| config.shown(QUANTISATION, value)).unwrap_or_default()
        };
        let refuse = |key: &str, supported: &str| {
            let shown = within.get(key).map(|value| within.shown(key, value));
            let error = config.not_supported(&[shown.unwrap_or_else(whole)]);
            Err(error.way_out(format!("supported: {key} {supported}")))
        };
        match within.string("quant_method")? {
            Some("mxfp4") => {
                only(config, &within, &["quant_method", "modules_to_not_convert", "dequantize"])?;
                Ok(Self::Mxfp4)
            }
            Some("fp8") => {
                let read = [
                    "quant_method",
                    "modules_to_not_convert",
                    "fmt",
                    "activation_scheme",
                    "weight_block_size",
                    "scale_fmt",
                    "dequantize",
                ];
                only(config, &within, &read)?;
                if within.string("fmt")?.is_some_and(|name| name != "e4m3") {
                    return refuse("fmt", "e4m3");
                }
                if within.string("activation_scheme")?.is_some_and(|name| name != "dynamic") {
                    return refuse("activation_scheme", "dynamic");
                }
                if within.integers("weight_block_size")?.as_deref() != Some(&[128, 128]) {
                    return refuse("weight_block_size", "[128, 128]");
                }
                Ok(Self::Fp8)
            }
            _ => {
                let error = config.not_supported(&[whole()]);
                Err(error.way_out("supported: mxfp4, fp8 by blocks of 128 times 128"))
            }
        }
    }

    /// Refuses a kind that the family's checkpoints cannot have.
    pub(super) fn check(self, config: &ConfigJson, has_experts: bool) -> Result<Self, Error> {
        if self == Self::Mxfp4 && !has_experts {
            let cause = "MXFP4 is supported for experts alone, and the model has none";
            return Err(config.error(ErrorKind::Unsupported, cause));
        }
        Ok(self)
    }
}

/// Refuses other keys than these, also such as have harmless names.
fn only(config: &ConfigJson, within: &ConfigJson, keys: &[&str]) -> Result<(), Error> {
    match within.judge(&[keys], &[])? {
        ignored if ignored.is_empty() => Ok(()),
        ignored => Err(config.not_supported(&ignored)),
    }
}

impl TensorRole {
    /// The type of a weight that is not here, in a model of `plain` ones.
    pub(super) fn assumed(self, plain: DType, quantisation: Quantisation) -> DType {
        let expert = matches!(self, Self::ExpertGate | Self::ExpertUp | Self::ExpertDown);
        match (quantisation, self) {
            (_, Self::Correction) => DType::F32,
            (Quantisation::Mxfp4, _) if expert => DType::MXFP4,
            // They are computed out of one matrix with scales.
            (Quantisation::Fp8, Self::KB) => DType::F32,
            (Quantisation::Fp8, role) if role.is_product() => DType::FP8_BLOCK,
            _ => plain,
        }
    }

    /// Whether it is one of the large products that checkpoints quantise.
    fn is_product(self) -> bool {
        let norm = matches!(
            self,
            Self::AttnNorm
                | Self::QNorm
                | Self::KNorm
                | Self::QANorm
                | Self::KvANorm
                | Self::FfnNorm
        );
        let small =
            matches!(self, Self::Sinks | Self::Router | Self::Correction | Self::SharedWeight);
        !norm && !small
    }
}
