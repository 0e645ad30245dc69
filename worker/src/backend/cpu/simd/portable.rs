//! Registers as arrays: for machines and sets that we know nothing special of.

use super::isa::{Isa, LANES, Lanes};

/// What every machine of the target has.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Isa for Portable {
    type Vector = Lanes;
    type Words = [u32; LANES];
    const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

    #[inline(always)]
    fn prefetch<T>(_at: &T, _distance: usize) {}
    #[inline(always)]
    fn load(from: &Lanes) -> Lanes {
        *from
    }
    #[inline(always)]
    fn store(vector: Lanes) -> Lanes {
        vector
    }
    #[inline(always)]
    fn splat(x: f32) -> Lanes {
        [x; LANES]
    }
    #[inline(always)]
    fn fma(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        std::array::from_fn(|lane| Self::mul_add(a[lane], b[lane], c[lane]))
    }
    #[inline(always)]
    fn halves(bits: &[u16; LANES]) -> Lanes {
        bits.map(|bits| half::f16::from_bits(bits).to_f32_const())
    }
    #[inline(always)]
    fn bfloats(bits: &[u16; LANES]) -> Lanes {
        bits.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }
    #[inline(always)]
    fn bytes(bytes: &[i8; LANES]) -> Lanes {
        bytes.map(f32::from)
    }
    #[inline(always)]
    fn words(from: &[u32; LANES]) -> [u32; LANES] {
        *from
    }
    #[inline(always)]
    fn and(words: [u32; LANES], mask: u32) -> [u32; LANES] {
        words.map(|word| word & mask)
    }
    #[inline(always)]
    fn or(a: [u32; LANES], b: [u32; LANES]) -> [u32; LANES] {
        std::array::from_fn(|lane| a[lane] | b[lane])
    }
    #[inline(always)]
    fn shift_left(words: [u32; LANES], count: u32) -> [u32; LANES] {
        words.map(|word| word << count)
    }
    #[inline(always)]
    fn shift_right(words: [u32; LANES], count: u32) -> [u32; LANES] {
        words.map(|word| word >> count)
    }
    #[inline(always)]
    fn integers(words: [u32; LANES]) -> Lanes {
        words.map(|word| word.cast_signed() as f32)
    }
    #[inline(always)]
    fn look_up(table: &Lanes, words: [u32; LANES]) -> Lanes {
        words.map(|word| table[word as usize % LANES])
    }
    #[inline(always)]
    fn powers(bytes: &[u8; LANES]) -> Lanes {
        // 2^-127 is subnormal.
        bytes.map(|byte| f32::from_bits((u32::from(byte) << 23).max(1 << 22)))
    }
    #[inline(always)]
    fn e4m3(codes: &[u8; LANES]) -> Lanes {
        let half = |code: u8| u16::from(code & 0x80) << 8 | u16::from(code & 0x7f) << 7;
        Self::halves(&codes.map(half))
    }
}
