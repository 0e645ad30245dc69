//! What every type of block does, and what several of them read.

use super::super::inputs::Inputs;
use super::super::simd::Isa;

/// A type of block.
pub(in crate::backend::cpu) trait WeightBlock: Clone {
    /// Groups of inputs in a block.
    const GROUPS: usize;
    /// A block of weights that are all zero.
    const ZERO: Self;

    /// Takes up one row of a block of the checkpoint; of plain types there may be fewer inputs.
    fn pack(&mut self, lane: usize, from: &[u8]);

    /// One row's inputs of a group.
    fn read(&self, group: usize, lane: usize, out: &mut [f32]);

    /// `sums` with a group's weights times its inputs added. The inputs are number `index`.
    fn add_to<I: Isa, const T: usize>(
        &self,
        group: usize,
        inputs: &[Inputs<'_>; T],
        index: usize,
        sums: [I::Vector; T],
    ) -> [I::Vector; T];
}

/// A number of half precision.
pub(super) fn half(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32_const()
}

/// The bits of the half-precision number at byte `at`.
pub(super) fn half_bits(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([from[at], from[at + 1]])
}
