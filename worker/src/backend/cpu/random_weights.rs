//! Random weights, for measurements of models whose weights are not here.

use binfer_shard::{DType, LocalPart, LocalTensor};

use super::cpu_backend::CpuBackend;
use crate::backend::{BackendError, Weight};

impl CpuBackend {
    /// Makes tensors up and packs them. `done` is told the bytes made so far.
    pub(super) fn pack_random(
        &mut self,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        let (mut weights, mut bytes) = (Vec::with_capacity(tensors.len()), 0);
        for (seed, tensor) in (1..).zip(tensors) {
            weights.push(self.pack(tensor, &random_tensor(tensor, seed)?)?);
            bytes += tensor.bytes();
            done(bytes);
        }
        Ok(weights)
    }
}

/// Bytes of a tensor's parts: small random numbers, or ones where it is the scale of a norm.
///
/// # Errors
/// When a part is of a packed type, whose bits are no plain numbers.
fn random_tensor(tensor: &LocalTensor, seed: u64) -> Result<Vec<Vec<u8>>, BackendError> {
    let mut state = seed;
    tensor.parts.iter().map(|part| random_part(tensor, part, &mut state)).collect()
}

fn random_part(
    tensor: &LocalTensor,
    part: &LocalPart,
    state: &mut u64,
) -> Result<Vec<u8>, BackendError> {
    let elements = u64::from(part.rows) * u64::from(part.cols);
    let mut number = || {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // -0.03 to 0.03
        if tensor.rows() == 1 { 1.0 } else { ((*state >> 40) as f32 / 8_388_608.0 - 1.0) * 0.03 }
    };
    let numbers = std::iter::repeat_with(&mut number).take(usize::try_from(elements).unwrap_or(0));
    Ok(match part.dtype {
        DType::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
        DType::F16 => numbers.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => numbers.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        packed => {
            let cause = format!("{}: no random {}", tensor.name, packed.name());
            return Err(BackendError::Args { operation: "load", cause });
        }
    })
}
