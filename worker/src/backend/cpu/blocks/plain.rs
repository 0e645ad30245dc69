//! F32, F16 and BF16: numbers that need no scale.

use super::super::inputs::{GROUP, Inputs};
use super::super::simd::{Isa, LANES};
use super::block::{WeightBlock, half};
use super::sums::{add_scaled, multiply};

/// 32 inputs by 16 rows of single precision.
#[repr(C, align(64))]
#[derive(Clone)]
pub(in super::super) struct BlockF32([[f32; LANES]; GROUP]);

/// 32 inputs by 16 rows of half precision.
#[repr(C, align(64))]
#[derive(Clone)]
pub(in super::super) struct BlockF16([[u16; LANES]; GROUP]);

/// 32 inputs by 16 rows of bfloat16.
#[repr(C, align(64))]
#[derive(Clone)]
pub(in super::super) struct BlockBF16([[u16; LANES]; GROUP]);

fn pack_u16(to: &mut [[u16; LANES]; GROUP], lane: usize, from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from.as_chunks().0) {
        to[lane] = u16::from_le_bytes(*from);
    }
}

/// A block whose weights come out of registers as they are; the three differ in `$load` alone.
macro_rules! plain {
    ($block:ident, $zero:expr, $pack:expr, $read:expr, $load:ident) => {
        impl WeightBlock for $block {
            const GROUPS: usize = 1;
            const ZERO: Self = Self([[$zero; LANES]; GROUP]);

            fn pack(&mut self, lane: usize, from: &[u8]) {
                $pack(&mut self.0, lane, from);
            }

            fn read(&self, _group: usize, lane: usize, out: &mut [f32]) {
                for (out, from) in out.iter_mut().zip(&self.0) {
                    *out = $read(from[lane]);
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
                    I::$load(&self.0[8 * eight + place])
                });
                add_scaled::<I, T>(sums, I::splat(1.0), products)
            }
        }
    };
}

plain!(BlockF32, 0.0, pack_f32, std::convert::identity, load);
plain!(BlockF16, 0, pack_u16, half, halves);
plain!(BlockBF16, 0, pack_u16, bfloat, bfloats);

fn pack_f32(to: &mut [[f32; LANES]; GROUP], lane: usize, from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from.as_chunks().0) {
        to[lane] = f32::from_le_bytes(*from);
    }
}

fn bfloat(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
