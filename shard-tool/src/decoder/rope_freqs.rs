//! llama.cpp's table of frequency divisors, recognised.
//!
//! Its converter works Llama 3's rope scaling out into a tensor and drops the numbers. The engine
//! wants the numbers: the factor is the last divisor, the others are those of every published
//! model, and the whole table must be what they give.

use std::f64::consts::TAU;
use std::path::Path;

use crate::spec::RopeScaling;
use crate::weight_map::WeightMap;
use crate::{DType, Error, ErrorKind};

/// The name of the tensor.
pub(super) const NAME: &str = "rope_freqs.weight";
/// `low_freq_factor` of Llama 3.1 to 3.3.
const LOW: f64 = 1.0;
/// `high_freq_factor` of Llama 3.1 to 3.3.
const HIGH: f64 = 4.0;
/// `original_max_position_embeddings` of Llama 3.1 to 3.3.
const ORIGINAL_CONTEXT: u32 = 8192;
/// The largest relative difference: the converter computes in single precision.
const RELATIVE: f64 = 1e-4;
/// More pairs than any head has are refused.
const PAIRS_MAX: u64 = 1 << 16;

/// The scaling that the tensor says, if the file has it.
pub(super) fn read(
    weight_map: &WeightMap,
    path: &Path,
    (theta, dims): (f64, u32),
) -> Result<Option<RopeScaling>, Error> {
    let here = weight_map.mapped(NAME).filter(|mapped| mapped.file.is_some());
    let Some(mapped) = here else { return Ok(None) };
    let tensor = &mapped.info;
    let refuse = |cause: &str| {
        let error = Error::new(ErrorKind::Unsupported, cause).file(path).tensor(NAME);
        error.at(tensor.offset)
    };
    let pairs = u64::from(dims / 2);
    if tensor.dtype != DType::F32 || tensor.shape != [pairs] || pairs > PAIRS_MAX {
        return Err(refuse("not one F32 for each pair of elements that rotates"));
    }
    let mut bytes = vec![0; dims as usize / 2 * 4];
    let whole = 0..tensor.bytes;
    mapped.read(std::slice::from_ref(&whole), &mut bytes)?;
    let found: Vec<f64> =
        bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect();
    let factor = found.last().copied().unwrap_or(0.0);
    let fits = found.iter().enumerate().all(|(pair, found)| {
        let wave = TAU * theta.powf(2.0 * pair as f64 / f64::from(dims));
        (divisor(wave, factor) - found).abs() <= RELATIVE * found.abs()
    });
    if factor < 1.0 || !fits {
        return Err(refuse("not the divisors of Llama 3's rope scaling; no other is known"));
    }
    Ok(Some(RopeScaling::Llama3 {
        factor,
        low_freq_factor: LOW,
        high_freq_factor: HIGH,
        original_context: ORIGINAL_CONTEXT,
    }))
}

/// What the frequency of a wave of that length is divided by.
fn divisor(wave: f64, factor: f64) -> f64 {
    let context = f64::from(ORIGINAL_CONTEXT);
    if wave < context / HIGH {
        1.0
    } else if wave > context / LOW {
        factor
    } else {
        let share = (context / wave - LOW) / (HIGH - LOW);
        1.0 / ((1.0 - share) / factor + share)
    }
}
