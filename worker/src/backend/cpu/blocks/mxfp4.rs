//! MXFP4: four-bit floats under a power of two for 32 inputs.

use binfer_shard::{DType, quant};

use super::super::inputs::{GROUP, Inputs};
use super::super::simd::{Isa, LANES};
use super::block::WeightBlock;
use super::sums::{add_scaled, multiply};

/// 32 inputs by 16 rows of `2^(scale - 127) * E2M1`: as many bytes as in the checkpoint.
#[repr(C, align(16))]
#[derive(Clone)]
pub(in super::super) struct BlockMxfp4 {
    scale: [u8; LANES],
    /// Word `k / 8` of a row holds input `k` in nibble `k % 8`, the lowest first.
    codes: [[u32; LANES]; GROUP / 8],
}

impl WeightBlock for BlockMxfp4 {
    const GROUPS: usize = 1;
    const ZERO: Self = Self { scale: [127; LANES], codes: [[0; LANES]; GROUP / 8] };

    fn pack(&mut self, lane: usize, from: &[u8]) {
        let mut codes = [0; GROUP];
        quant::codes(DType::MXFP4, from, &mut codes);
        self.scale[lane] = from[0];
        for (words, codes) in self.codes.iter_mut().zip(codes.chunks_exact(8)) {
            let nibbles = codes.iter().zip((0..).step_by(4));
            words[lane] = nibbles.fold(0, |word, (code, at)| word | u32::from(*code) << at);
        }
    }

    fn read(&self, _group: usize, lane: usize, out: &mut [f32]) {
        let scale = quant::e8m0(self.scale[lane]);
        for (k, out) in out.iter_mut().enumerate() {
            let code = self.codes[k / 8][lane] >> (4 * (k % 8)) & 15;
            *out = scale * quant::E2M1[code as usize];
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
            let words = I::words(&self.codes[eight]);
            I::look_up(&quant::E2M1, I::shift_right(words, NIBBLES[place]))
        });
        add_scaled::<I, T>(sums, I::powers(&self.scale), products)
    }
}

/// How far from the right end of a word its nibbles are.
const NIBBLES: [u32; 8] = [0, 4, 8, 12, 16, 20, 24, 28];
