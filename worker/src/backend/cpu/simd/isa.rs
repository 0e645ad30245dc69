//! What kernels are written over: registers of sixteen lanes, whatever the machine.

/// Lanes of a register as kernels see it, whatever the machine's real width.
pub(in crate::backend::cpu) const LANES: usize = 16;
/// One register's worth of numbers, in memory.
pub(in crate::backend::cpu) type Lanes = [f32; LANES];

/// What [`Isa::e4m3`] is to be multiplied by: its exponents have the bias of a half.
pub(in crate::backend::cpu) const E4M3_SCALE: f32 = 256.0;

/// An instruction set. Its functions are inlined into kernels, so they compile for that set.
pub(in crate::backend::cpu) trait Isa: Copy + Send + Sync {
    /// Sixteen numbers in registers.
    type Vector: Copy;
    /// Sixteen times 32 bits in registers.
    type Words: Copy;
    /// Whether `a * b + c` is one instruction with one rounding.
    const FUSED: bool;

    fn load(from: &Lanes) -> Self::Vector;
    fn store(vector: Self::Vector) -> Lanes;
    fn splat(x: f32) -> Self::Vector;
    /// `a * b + c`, lane by lane.
    fn fma(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// From half precision.
    fn halves(bits: &[u16; LANES]) -> Self::Vector;
    /// From bfloat16.
    fn bfloats(bits: &[u16; LANES]) -> Self::Vector;
    /// Numbers out of signed bytes.
    fn bytes(bytes: &[i8; LANES]) -> Self::Vector;
    fn words(from: &[u32; LANES]) -> Self::Words;
    /// The bits under `mask`.
    fn and(words: Self::Words, mask: u32) -> Self::Words;
    fn or(a: Self::Words, b: Self::Words) -> Self::Words;
    /// Shifts by `count`, which is below 32.
    fn shift_left(words: Self::Words, count: u32) -> Self::Words;
    fn shift_right(words: Self::Words, count: u32) -> Self::Words;
    /// Numbers out of signed integers.
    fn integers(words: Self::Words) -> Self::Vector;
    /// The number of `table` that the low four bits of each word say.
    fn look_up(table: &Lanes, words: Self::Words) -> Self::Vector;
    /// The powers of two that bytes E8M0 stand for, as [`binfer_shard::quant::e8m0`] has them;
    /// infinity where it has NaN.
    fn powers(bytes: &[u8; LANES]) -> Self::Vector;
    /// The values of E4M3, divided by [`E4M3_SCALE`]. NaN comes as a number.
    fn e4m3(codes: &[u8; LANES]) -> Self::Vector;

    /// Hints that the bytes at this distance behind `at` will be read soon.
    fn prefetch<T>(at: &T, distance: usize);

    /// `a * b + c` of single numbers, rounded as lanes are.
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        if Self::FUSED { a.mul_add(b, c) } else { a * b + c }
    }
}

/// A piece of work that is compiled once per instruction set.
pub(in crate::backend::cpu) trait IsaKernel {
    /// What it returns.
    type Out;
    /// Does the work. Must be `#[inline(always)]`, and so must be what it calls, or it compiles for
    /// the oldest machine.
    fn run<I: Isa>(self) -> Self::Out;
}
