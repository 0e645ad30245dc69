//! Random weights, for measurements of models whose weights are not here.

use binfer_shard::{DType, LocalPart, LocalTensor, quant};

use super::cpu_backend::CpuBackend;
use crate::backend::random_weights::RandomElements;
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
            let mut random = RandomBits(seed);
            let elements = RandomElements::of(tensor);
            let parts = tensor.parts.iter().map(|part| {
                random_part(part, elements, &mut random).ok_or_else(|| BackendError::Args {
                    operation: "load",
                    cause: format!("{}: no random {}", tensor.name, part.dtype.name()),
                })
            });
            let parts: Vec<Vec<u8>> = parts.collect::<Result<_, _>>()?;
            weights.push(self.pack(tensor, &parts)?);
            bytes += tensor.bytes();
            done(bytes);
        }
        Ok(weights)
    }
}

/// A linear congruential generator.
struct RandomBits(u64);

impl RandomBits {
    /// 24 random bits.
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u32::try_from(self.0 >> 40).unwrap_or_default()
    }

    fn element(&mut self, elements: RandomElements) -> f32 {
        match elements {
            RandomElements::Ones => 1.0,
            RandomElements::Within(range) => (self.next() as f32 / 8_388_608.0 - 1.0) * range,
        }
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[2]
    }
}

/// Bytes of a part; `None` if nobody wrote down what is random in its type.
fn random_part(
    part: &LocalPart,
    elements: RandomElements,
    random: &mut RandomBits,
) -> Option<Vec<u8>> {
    let count = usize::try_from(part.bytes()).ok()? / part.dtype.block_bytes() as usize;
    let range = match elements {
        RandomElements::Ones => 1.0,
        RandomElements::Within(range) => range,
    };
    let blocks = std::iter::repeat_n((), count);
    Some(match part.dtype {
        DType::F32 => blocks.flat_map(|()| random.element(elements).to_le_bytes()).collect(),
        DType::F16 => blocks
            .flat_map(|()| half::f16::from_f32(random.element(elements)).to_le_bytes())
            .collect(),
        DType::BF16 => blocks
            .flat_map(|()| half::bf16::from_f32(random.element(elements)).to_le_bytes())
            .collect(),
        DType::MXFP4 => blocks.flat_map(|()| random_mxfp4(range, random)).collect(),
        DType::FP8_BLOCK => blocks.flat_map(|()| random_fp8(range, random)).collect(),
        _ => return None,
    })
}

/// A block whose elements lie within `range` of 0.
fn random_mxfp4(range: f32, random: &mut RandomBits) -> Vec<u8> {
    // The largest power of two whose sixfold is within the range.
    let scale = (0..=254).rev().find(|scale| quant::e8m0(*scale) * 6.0 <= range).unwrap_or(0);
    std::iter::once(scale).chain(std::iter::repeat_with(|| random.byte()).take(16)).collect()
}

/// A block whose elements lie within `range` of 0.
fn random_fp8(range: f32, random: &mut RandomBits) -> Vec<u8> {
    let codes = std::iter::repeat_with(|| random.byte()).take(128);
    let number = |code: u8| if quant::e4m3(code).is_nan() { 0 } else { code };
    (range / 448.0).to_le_bytes().into_iter().chain(codes.map(number)).collect()
}
