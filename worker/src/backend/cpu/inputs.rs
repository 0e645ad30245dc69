//! One token's inputs of a gemm, as blocks of weights read them.

/// Inputs of a group, the unit of a gemm's order of summation.
pub(super) const GROUP: usize = 32;

/// Prepared inputs of one token, in groups.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) plain: &'a [[f32; GROUP]],
    /// Input `k` divided by `2^(4 (k % 8))`, but by 1 for the last of eight, see `blocks/codes.rs`.
    pub(super) scaled: &'a [[f32; GROUP]],
    /// Sums of the first and the last sixteen inputs.
    pub(super) sums: &'a [[f32; 2]],
}

impl Inputs<'_> {
    /// Sum of a group.
    #[inline(always)]
    pub(super) fn sum(&self, index: usize) -> f32 {
        let [first, last] = self.sums[index];
        first + last
    }
}
