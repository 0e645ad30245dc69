//! Integers of four to six bits: nibbles eight to a word, further bits in words of their own.
//!
//! A nibble is used where it stands in its word, worth `2^(4 k)` too much, which the panel's
//! scaled inputs make good. Further bits are kept so that one shift a word brings those of eight
//! inputs to the left end of their nibbles, into the place of the next nibble, which is masked out.

use super::super::inputs::{GROUP, Inputs};
use super::super::simd::{Isa, LANES};
use super::sums::multiply;

/// 32 inputs by 16 rows of integers of `4 + HIGH` bits, `HIGH` at most two.
#[repr(C)]
#[derive(Clone)]
pub(super) struct Codes<const HIGH: usize> {
    /// Word `k / 8` of a row holds the low four bits of input `k` in nibble `k % 8`, the lowest
    /// first.
    low: [[u32; LANES]; GROUP / 8],
    /// Bits above those: of input `k` in nibble `k % 8` too, see [`Self::place`].
    high: [[u32; LANES]; HIGH],
}

impl<const HIGH: usize> Codes<HIGH> {
    pub(super) const ZERO: Self = Self { low: [[0; LANES]; GROUP / 8], high: [[0; LANES]; HIGH] };
    /// The further bits of an input.
    const HIGH_MASK: u32 = (1 << HIGH) - 1;

    /// Where the further bits of eight inputs are: which word, and how far from the right end of
    /// their nibbles. A word has room for those of `4 / HIGH` times eight inputs.
    #[inline(always)]
    const fn place(eight: usize) -> (usize, usize) {
        (eight * HIGH / 4, eight * HIGH % 4)
    }

    /// Takes up one row's integers.
    pub(super) fn set(&mut self, lane: usize, codes: &[u8]) {
        self.high.iter_mut().for_each(|word| word[lane] = 0);
        for (eight, codes) in codes.chunks_exact(8).enumerate() {
            let word = |of: fn(u32) -> u32| {
                let codes = codes.iter().zip((0..).step_by(4));
                codes.fold(0, |word, (code, shift)| word | of(u32::from(*code)) << shift)
            };
            self.low[eight][lane] = word(|code| code & 15);
            if HIGH > 0 {
                let (at, shift) = Self::place(eight);
                self.high[at][lane] |= word(|code| code >> 4) << shift;
            }
        }
    }

    /// One integer.
    pub(super) fn get(&self, lane: usize, k: usize) -> f32 {
        let (eight, nibble) = (k / 8, 4 * (k % 8));
        let mut code = self.low[eight][lane] >> nibble & 15;
        if HIGH > 0 {
            let (at, shift) = Self::place(eight);
            code |= (self.high[at][lane] >> nibble >> shift & Self::HIGH_MASK) << 4;
        }
        code as f32
    }

    /// `products` with those of `N` times eight inputs added, from eight number `first` on.
    #[inline(always)]
    pub(super) fn add_to<I: Isa, const T: usize, const N: usize>(
        &self,
        products: [I::Vector; T],
        (inputs, index): (&[Inputs<'_>; T], usize),
        first: usize,
    ) -> [I::Vector; T] {
        let scaled = inputs.map(|inputs| &inputs.scaled[index]);
        multiply::<I, T, N>(products, scaled, first, |eight, place| self.weights::<I>(eight, place))
    }

    /// The integers of one input, `2^(4 place)` times too large but for the last of eight. That
    /// one would look negative to the conversion, and unsigned conversions are slow before
    /// AVX-512: it is moved.
    #[inline(always)]
    fn weights<I: Isa>(&self, eight: usize, place: usize) -> I::Vector {
        let nibble = bits(4 * place);
        let low = I::words(&self.low[eight]);
        let low = if place == 7 { I::shift_right(low, nibble) } else { I::and(low, 15 << nibble) };
        if HIGH == 0 {
            return I::integers(low);
        }
        let (at, shift) = Self::place(eight);
        let (high, shift) = (I::words(&self.high[at]), bits(shift));
        let high = if place == 7 {
            I::and(I::shift_right(high, nibble + shift - 4), Self::HIGH_MASK << 4)
        } else {
            I::and(I::shift_left(high, 4 - shift), Self::HIGH_MASK << 4 << nibble)
        };
        I::integers(I::or(low, high))
    }
}

/// A number of bits of a word.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "below 32")]
const fn bits(count: usize) -> u32 {
    count as u32
}
