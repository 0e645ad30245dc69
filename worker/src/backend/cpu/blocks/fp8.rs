//! FP8: eight-bit floats (E4M3) under one scale for 128 inputs.

use binfer_shard::quant;

use super::super::inputs::{GROUP, Inputs};
use super::super::simd::{E4M3_SCALE, Isa, LANES};
use super::block::WeightBlock;
use super::sums::{add_scaled, multiply, times};

/// Groups of inputs under one scale.
const GROUPS: usize = 4;

/// 128 inputs by 16 rows of `scale * E4M3`. A NaN among a row's inputs makes its scale one.
#[repr(C, align(64))]
#[derive(Clone)]
pub(in super::super) struct BlockFp8 {
    scale: [f32; LANES],
    codes: [[u8; LANES]; GROUPS * GROUP],
}

impl WeightBlock for BlockFp8 {
    const GROUPS: usize = GROUPS;
    const ZERO: Self = Self { scale: [0.0; LANES], codes: [[0; LANES]; GROUPS * GROUP] };

    fn pack(&mut self, lane: usize, from: &[u8]) {
        self.scale[lane] = f32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        for (to, from) in self.codes.iter_mut().zip(&from[4..]) {
            to[lane] = *from;
            if quant::e4m3(*from).is_nan() {
                self.scale[lane] = f32::NAN;
            }
        }
    }

    fn read(&self, group: usize, lane: usize, out: &mut [f32]) {
        for (out, codes) in out.iter_mut().zip(&self.codes[group * GROUP..]) {
            *out = self.scale[lane] * quant::e4m3(codes[lane]);
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
        let inputs = inputs.map(|inputs| &inputs.plain[index]);
        let none = [I::splat(0.0); T];
        let codes = &self.codes[group * GROUP..];
        let products =
            multiply::<I, T, 4>(none, inputs, 0, |eight, place| I::e4m3(&codes[8 * eight + place]));
        let scale = times::<I>(I::load(&self.scale), I::splat(E4M3_SCALE));
        add_scaled::<I, T>(sums, scale, products)
    }
}
