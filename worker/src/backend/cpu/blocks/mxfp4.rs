//! MXFP4: four-bit floats under a power of two for 32 inputs.

use binfer_shard::{DType, quant};

use super::super::inputs::{GROUP, Inputs};
use super::super::simd::{Isa, LANES};
use super::block::WeightBlock;
use super::sums::{add_scaled, multiply};

/// Twice the values of E2M1, which are integers.
const TWICE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 32 inputs by 16 rows of `2^(scale - 127) * E2M1`.
#[repr(C, align(16))]
#[derive(Clone)]
pub(in super::super) struct BlockMxfp4 {
    scale: [u8; LANES],
    /// Input `k` in the low nibbles, input `k + 16` in the high ones.
    codes: [[u8; LANES]; GROUP / 2],
}

impl BlockMxfp4 {
    /// Twice the values of one input.
    #[inline(always)]
    fn twice(&self, k: usize) -> [i8; LANES] {
        let shift = if k < GROUP / 2 { 0 } else { 4 };
        self.codes[k % (GROUP / 2)].map(|codes| TWICE[usize::from(codes >> shift & 15)])
    }
}

impl WeightBlock for BlockMxfp4 {
    const GROUPS: usize = 1;
    const ZERO: Self = Self { scale: [127; LANES], codes: [[0; LANES]; GROUP / 2] };

    fn pack(&mut self, lane: usize, from: &[u8]) {
        let mut codes = [0; GROUP];
        quant::codes(DType::MXFP4, from, &mut codes);
        self.scale[lane] = from[0];
        let (low, high) = codes.split_at(GROUP / 2);
        for ((to, low), high) in self.codes.iter_mut().zip(low).zip(high) {
            to[lane] = low | high << 4;
        }
    }

    fn read(&self, _group: usize, lane: usize, out: &mut [f32]) {
        let scale = quant::e8m0(self.scale[lane]) / 2.0;
        for (k, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(self.twice(k)[lane]);
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
            I::bytes(&self.twice(8 * eight + place))
        });
        let half_scale = self.scale.map(|scale| quant::e8m0(scale) / 2.0);
        add_scaled::<I, T>(sums, I::load(&half_scale), products)
    }
}
