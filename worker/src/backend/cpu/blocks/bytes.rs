//! Q8_0: signed bytes under one scale.

use super::super::inputs::{GROUP, Inputs};
use super::super::simd::{Isa, LANES};
use super::block::{WeightBlock, half, half_bits};
use super::sums::{add_scaled, multiply};

/// 32 inputs by 16 rows of `scale * q`.
#[repr(C, align(32))]
#[derive(Clone)]
pub(in super::super) struct BlockQ80 {
    scale: [u16; LANES],
    q: [[i8; LANES]; GROUP],
}

impl WeightBlock for BlockQ80 {
    const GROUPS: usize = 1;
    const ZERO: Self = Self { scale: [0; LANES], q: [[0; LANES]; GROUP] };

    fn pack(&mut self, lane: usize, from: &[u8]) {
        self.scale[lane] = half_bits(from, 0);
        for (to, from) in self.q.iter_mut().zip(&from[2..]) {
            to[lane] = from.cast_signed();
        }
    }

    fn read(&self, _group: usize, lane: usize, out: &mut [f32]) {
        let scale = half(self.scale[lane]);
        for (out, q) in out.iter_mut().zip(&self.q) {
            *out = scale * f32::from(q[lane]);
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
        let inputs = inputs.map(|inputs| &inputs.plain[index]);
        let none = [I::splat(0.0); T];
        let products = multiply::<I, T, 4>(none, inputs, 0, |eight, place| {
            I::bytes(&self.q[8 * eight + place])
        });
        add_scaled::<I, T>(sums, I::halves(&self.scale), products)
    }
}
