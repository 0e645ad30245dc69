//! Q4_K, Q5_K and Q6_K: 256 inputs under one scale, and small factors of it for 32 or 16 inputs.
//!
//! Six-bit factors are kept as bytes, which makes a row of a block four bytes longer than in the
//! checkpoint. A factor times its half-precision scale is exact in single precision.

use std::array;

use binfer_shard::{DType, quant};

use super::super::inputs::{GROUP, Inputs};
use super::super::simd::{Isa, LANES};
use super::block::{WeightBlock, half, half_bits};
use super::codes::Codes;
use super::sums::{accumulate, add_scaled, times};

/// Groups of a block.
const GROUPS: usize = 8;
/// Factors of a Q6_K block.
const SIXTEENS: usize = 16;
/// What is subtracted from the integers of Q6_K.
const OFFSET: f32 = 32.0;

/// 256 inputs by 16 rows of `scale * factor * q - minimum * minimum_factor`; Q5_K with a fifth bit.
#[repr(C, align(64))]
#[derive(Clone)]
pub(in super::super) struct BlockK<const HIGH: usize> {
    scale: [u16; LANES],
    minimum: [u16; LANES],
    factors: [[i8; LANES]; GROUPS],
    minimum_factors: [[i8; LANES]; GROUPS],
    codes: [Codes<HIGH>; GROUPS],
}

impl<const HIGH: usize> BlockK<HIGH> {
    const DTYPE: DType = if HIGH == 0 { DType::Q4_K } else { DType::Q5_K };
}

impl<const HIGH: usize> WeightBlock for BlockK<HIGH> {
    const GROUPS: usize = GROUPS;
    const ZERO: Self = Self {
        scale: [0; LANES],
        minimum: [0; LANES],
        factors: [[0; LANES]; GROUPS],
        minimum_factors: [[0; LANES]; GROUPS],
        codes: [const { Codes::ZERO }; GROUPS],
    };

    fn pack(&mut self, lane: usize, from: &[u8]) {
        self.scale[lane] = half_bits(from, 0);
        self.minimum[lane] = half_bits(from, 2);
        let (factors, minimum_factors) = quant::k_scales(from);
        for group in 0..GROUPS {
            self.factors[group][lane] = factors[group].cast_signed();
            self.minimum_factors[group][lane] = minimum_factors[group].cast_signed();
        }
        set_codes(&mut self.codes, lane, Self::DTYPE, from);
    }

    fn read(&self, group: usize, lane: usize, out: &mut [f32]) {
        let scale = half(self.scale[lane]) * f32::from(self.factors[group][lane]);
        let minimum = half(self.minimum[lane]) * f32::from(self.minimum_factors[group][lane]);
        for (k, out) in out.iter_mut().enumerate() {
            *out = scale * self.codes[group].get(lane, k) - minimum;
        }
    }

    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        group: usize,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: [I::Vector; T],
    ) -> [I::Vector; T] {
        let none = [I::splat(0.0); T];
        let products = self.codes[group].add_to::<I, T, 4>(none, (inputs, index), 0);
        let scale = times::<I>(I::halves(&self.scale), I::bytes(&self.factors[group]));
        let sums = add_scaled::<I, T>(sums, scale, products);
        let factors = I::bytes(&self.minimum_factors[group]);
        let minimum = times::<I>(I::halves(&self.minimum), factors);
        accumulate::<I, T>(sums, minimum, inputs.map(|inputs| -inputs.sum(index)))
    }
}

/// 256 inputs by 16 rows of `scale * factor * (q - 32)`.
#[repr(C, align(32))]
#[derive(Clone)]
pub(in super::super) struct BlockQ6K {
    scale: [u16; LANES],
    factors: [[i8; LANES]; SIXTEENS],
    codes: [Codes<2>; GROUPS],
}

impl WeightBlock for BlockQ6K {
    const GROUPS: usize = GROUPS;
    const ZERO: Self = Self {
        scale: [0; LANES],
        factors: [[0; LANES]; SIXTEENS],
        codes: [const { Codes::ZERO }; GROUPS],
    };

    fn pack(&mut self, lane: usize, from: &[u8]) {
        self.scale[lane] = half_bits(from, 208);
        for (to, from) in self.factors.iter_mut().zip(&from[192..208]) {
            to[lane] = from.cast_signed();
        }
        set_codes(&mut self.codes, lane, DType::Q6_K, from);
    }

    fn read(&self, group: usize, lane: usize, out: &mut [f32]) {
        for (k, out) in out.iter_mut().enumerate() {
            let factor = self.factors[2 * group + k / 16][lane];
            let scale = half(self.scale[lane]) * f32::from(factor);
            *out = scale * (self.codes[group].get(lane, k) - OFFSET);
        }
    }

    #[inline(always)]
    fn add_to<I: Isa, const T: usize>(
        &self,
        group: usize,
        inputs: &[Inputs<'_>; T],
        index: usize,
        mut sums: [I::Vector; T],
    ) -> [I::Vector; T] {
        for half in 0..2 {
            let offset = |inputs: Inputs<'_>| I::splat(-OFFSET * inputs.sums[index][half]);
            let (start, first) = (inputs.map(offset), 2 * half);
            let products = self.codes[group].add_to::<I, T, 2>(start, (inputs, index), first);
            let factors = I::bytes(&self.factors[2 * group + half]);
            let scale = times::<I>(I::halves(&self.scale), factors);
            sums = add_scaled::<I, T>(sums, scale, products);
        }
        sums
    }
}

fn set_codes<const HIGH: usize>(
    to: &mut [Codes<HIGH>; GROUPS],
    lane: usize,
    dtype: DType,
    from: &[u8],
) {
    let mut codes = [0; GROUPS * GROUP];
    quant::codes(dtype, from, &mut codes);
    let groups: [&[u8]; GROUPS] = array::from_fn(|group| &codes[group * GROUP..][..GROUP]);
    to.iter_mut().zip(groups).for_each(|(to, codes)| to.set(lane, codes));
}
