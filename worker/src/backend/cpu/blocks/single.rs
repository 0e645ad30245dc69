//! Q4_0 and Q5_0, Q4_1 and Q5_1: one scale for 32 inputs, and an offset or a minimum.

use binfer_shard::{DType, quant};

use super::super::inputs::{GROUP, Inputs};
use super::super::simd::{Isa, LANES};
use super::block::{WeightBlock, half, half_bits};
use super::codes::Codes;
use super::sums::{accumulate, add_scaled};

/// 32 inputs by 16 rows of `scale * (q - 8)`, or `scale * (q - 16)` with a fifth bit.
#[repr(C, align(32))]
#[derive(Clone)]
pub(in super::super) struct BlockWithOffset<const HIGH: usize> {
    scale: [u16; LANES],
    codes: Codes<HIGH>,
}

impl<const HIGH: usize> BlockWithOffset<HIGH> {
    const DTYPE: DType = if HIGH == 0 { DType::Q4_0 } else { DType::Q5_0 };
    const OFFSET: f32 = (8 << HIGH) as f32;
}

impl<const HIGH: usize> WeightBlock for BlockWithOffset<HIGH> {
    const GROUPS: usize = 1;
    const ZERO: Self = Self { scale: [0; LANES], codes: Codes::ZERO };

    fn pack(&mut self, lane: usize, from: &[u8]) {
        self.scale[lane] = half_bits(from, 0);
        self.codes.set(lane, &codes_of(Self::DTYPE, from));
    }

    fn read(&self, _group: usize, lane: usize, out: &mut [f32]) {
        let scale = half(self.scale[lane]);
        for (k, out) in out.iter_mut().enumerate() {
            *out = scale * (self.codes.get(lane, k) - Self::OFFSET);
        }
    }

    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        _group: usize,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: [I::Vector; T],
    ) -> [I::Vector; T] {
        let offset = |inputs: Inputs<'_>| I::splat(-Self::OFFSET * inputs.sum(index));
        let products = self.codes.add_to::<I, T, 4>(inputs.map(offset), (inputs, index), 0);
        add_scaled::<I, T>(sums, I::halves(&self.scale), products)
    }
}

/// 32 inputs by 16 rows of `scale * q + minimum`.
#[repr(C, align(64))]
#[derive(Clone)]
pub(in super::super) struct BlockWithMinimum<const HIGH: usize> {
    scale: [u16; LANES],
    minimum: [u16; LANES],
    codes: Codes<HIGH>,
}

impl<const HIGH: usize> BlockWithMinimum<HIGH> {
    const DTYPE: DType = if HIGH == 0 { DType::Q4_1 } else { DType::Q5_1 };
}

impl<const HIGH: usize> WeightBlock for BlockWithMinimum<HIGH> {
    const GROUPS: usize = 1;
    const ZERO: Self = Self { scale: [0; LANES], minimum: [0; LANES], codes: Codes::ZERO };

    fn pack(&mut self, lane: usize, from: &[u8]) {
        self.scale[lane] = half_bits(from, 0);
        self.minimum[lane] = half_bits(from, 2);
        self.codes.set(lane, &codes_of(Self::DTYPE, from));
    }

    fn read(&self, _group: usize, lane: usize, out: &mut [f32]) {
        let (scale, minimum) = (half(self.scale[lane]), half(self.minimum[lane]));
        for (k, out) in out.iter_mut().enumerate() {
            *out = scale * self.codes.get(lane, k) + minimum;
        }
    }

    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        _group: usize,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: [I::Vector; T],
    ) -> [I::Vector; T] {
        let none = [I::splat(0.0); T];
        let products = self.codes.add_to::<I, T, 4>(none, (inputs, index), 0);
        let sums = add_scaled::<I, T>(sums, I::halves(&self.scale), products);
        let minimum = I::halves(&self.minimum);
        accumulate::<I, T>(sums, minimum, inputs.map(|inputs| inputs.sum(index)))
    }
}

fn codes_of(dtype: DType, from: &[u8]) -> [u8; GROUP] {
    let mut codes = [0; GROUP];
    quant::codes(dtype, from, &mut codes);
    codes
}
