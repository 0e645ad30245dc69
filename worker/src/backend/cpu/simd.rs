//! The door to vector instructions: which set this machine has, its registers, and running a
//! kernel under it.
//!
//! Kernels are safe code over registers of sixteen lanes, written once; [`Level::run`] compiles
//! each of them under every instruction set that we know. Unsafe is only the promise that the
//! machine has what the compiler was allowed to use. No choice here changes the order of a sum.
#![allow(unsafe_code, reason = "calls of #[target_feature] functions, after detection")]

mod isa;
mod portable;

pub(super) use isa::{E4M3_SCALE, Isa, IsaKernel, LANES, Lanes};
use portable::Portable;

/// The instruction set in use. Made only by [`Level::best`] and [`Level::available`], so having a
/// value of it proves that the machine has the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(LevelKind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LevelKind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The fastest set of this machine.
    #[must_use]
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// All sets of this machine, the fastest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx512 {
                levels.push(Self(LevelKind::Avx512));
            }
            if avx2 {
                levels.push(Self(LevelKind::Avx2));
            }
        }
        levels.push(Self(LevelKind::Portable));
        levels
    }

    /// Runs `kernel` as compiled for this set.
    pub(super) fn run<K: IsaKernel>(self, kernel: K) -> K::Out {
        match self.0 {
            LevelKind::Portable => kernel.run::<Portable>(),
            // SAFETY: `available` made this value after it saw avx2, fma and f16c.
            #[cfg(target_arch = "x86_64")]
            LevelKind::Avx2 => unsafe { x86::run_avx2(kernel) },
            // SAFETY: `available` made this value after it saw every feature that the function
            // names.
            #[cfg(target_arch = "x86_64")]
            LevelKind::Avx512 => unsafe { x86::run_avx512(kernel) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::isa::{Isa, IsaKernel, LANES, Lanes};

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn run_avx2<K: IsaKernel>(kernel: K) -> K::Out {
        kernel.run::<Avx2>()
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(super) fn run_avx512<K: IsaKernel>(kernel: K) -> K::Out {
        kernel.run::<Avx512>()
    }

    #[derive(Clone, Copy)]
    struct Avx2;
    #[derive(Clone, Copy)]
    struct Avx512;

    /// E4M3 as halves whose exponents have the wrong bias: sign and exponent lie apart by a bit
    /// that is always zero.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn halves_of_e4m3(codes: &[u8; LANES]) -> __m256i {
        // SAFETY: reads sixteen bytes of an array that has sixteen.
        let packed = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
        let high = _mm256_slli_epi16::<8>(_mm256_cvtepu8_epi16(packed));
        _mm256_and_si256(_mm256_srai_epi16::<1>(high), _mm256_set1_epi16(!(1 << 14)))
    }

    /// Defines functions of [`Isa`] by expressions that need the type's features.
    macro_rules! with_features {
        ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty = $body:expr;)*) => {$(
            #[inline(always)]
            fn $name($($arg: $type),*) -> $out {
                // SAFETY: the type is named only by its `run_` function, whose caller proved the
                // features. Loads and stores take any alignment, and touch sixteen elements of
                // arrays that have sixteen.
                #[allow(clippy::multiple_unsafe_ops_per_block, reason = "one proof for all")]
                unsafe { $body }
            }
        )*};
    }

    impl Isa for Avx512 {
        type Vector = __m512;
        type Words = __m512i;
        const FUSED: bool = true;

        #[inline(always)]
        fn prefetch<T>(at: &T, distance: usize) {
            let at = std::ptr::from_ref(at).cast::<i8>().wrapping_add(distance);
            // SAFETY: a hint; the address need not be valid.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
        }

        with_features! {
            load(from: &Lanes) -> __m512 = _mm512_loadu_ps(from.as_ptr());
            store(vector: __m512) -> Lanes = {
                let mut lanes = [0.0; LANES];
                _mm512_storeu_ps(lanes.as_mut_ptr(), vector);
                lanes
            };
            splat(x: f32) -> __m512 = _mm512_set1_ps(x);
            fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            halves(bits: &[u16; LANES]) -> __m512 =
                _mm512_cvtph_ps(_mm256_loadu_si256(bits.as_ptr().cast()));
            bfloats(bits: &[u16; LANES]) -> __m512 = {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bits.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            };
            bytes(bytes: &[i8; LANES]) -> __m512 =
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())));
            words(from: &[u32; LANES]) -> __m512i = _mm512_loadu_si512(from.as_ptr().cast());
            and(words: __m512i, mask: u32) -> __m512i =
                _mm512_and_si512(words, _mm512_set1_epi32(mask.cast_signed()));
            or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
            shift_left(words: __m512i, count: u32) -> __m512i =
                _mm512_sll_epi32(words, _mm_cvtsi32_si128(count.cast_signed()));
            shift_right(words: __m512i, count: u32) -> __m512i =
                _mm512_srl_epi32(words, _mm_cvtsi32_si128(count.cast_signed()));
            integers(words: __m512i) -> __m512 = _mm512_cvtepi32_ps(words);
            look_up(table: &Lanes, words: __m512i) -> __m512 =
                _mm512_permutexvar_ps(words, _mm512_loadu_ps(table.as_ptr()));
            powers(bytes: &[u8; LANES]) -> __m512 = {
                let wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
                let powers = _mm512_slli_epi32::<23>(wide);
                // 2^-127 is subnormal.
                _mm512_castsi512_ps(_mm512_max_epu32(powers, _mm512_set1_epi32(1 << 22)))
            };
            e4m3(codes: &[u8; LANES]) -> __m512 = _mm512_cvtph_ps(halves_of_e4m3(codes));
        }
    }

    impl Isa for Avx2 {
        type Vector = [__m256; 2];
        type Words = [__m256i; 2];
        const FUSED: bool = true;

        #[inline(always)]
        fn prefetch<T>(at: &T, distance: usize) {
            let at = std::ptr::from_ref(at).cast::<i8>().wrapping_add(distance);
            // SAFETY: a hint; the address need not be valid.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
        }

        with_features! {
            load(from: &Lanes) -> [__m256; 2] =
                [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from[8..].as_ptr())];
            store(vector: [__m256; 2]) -> Lanes = {
                let mut lanes = [0.0; LANES];
                _mm256_storeu_ps(lanes.as_mut_ptr(), vector[0]);
                _mm256_storeu_ps(lanes[8..].as_mut_ptr(), vector[1]);
                lanes
            };
            splat(x: f32) -> [__m256; 2] = [_mm256_set1_ps(x); 2];
            fma(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] =
                [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])];
            halves(bits: &[u16; LANES]) -> [__m256; 2] = [
                _mm256_cvtph_ps(_mm_loadu_si128(bits.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(bits[8..].as_ptr().cast())),
            ];
            bfloats(bits: &[u16; LANES]) -> [__m256; 2] = {
                let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(bits.as_ptr().cast()));
                let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(bits[8..].as_ptr().cast()));
                [low, high].map(|wide| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
            };
            bytes(bytes: &[i8; LANES]) -> [__m256; 2] = {
                let packed = _mm_loadu_si128(bytes.as_ptr().cast());
                let halves = [packed, _mm_unpackhi_epi64(packed, packed)];
                halves.map(|bytes| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)))
            };
            words(from: &[u32; LANES]) -> [__m256i; 2] = [
                _mm256_loadu_si256(from.as_ptr().cast()),
                _mm256_loadu_si256(from[8..].as_ptr().cast()),
            ];
            and(words: [__m256i; 2], mask: u32) -> [__m256i; 2] = {
                let mask = _mm256_set1_epi32(mask.cast_signed());
                words.map(|words| _mm256_and_si256(words, mask))
            };
            or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] =
                [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])];
            shift_left(words: [__m256i; 2], count: u32) -> [__m256i; 2] = {
                let count = _mm_cvtsi32_si128(count.cast_signed());
                words.map(|words| _mm256_sll_epi32(words, count))
            };
            shift_right(words: [__m256i; 2], count: u32) -> [__m256i; 2] = {
                let count = _mm_cvtsi32_si128(count.cast_signed());
                words.map(|words| _mm256_srl_epi32(words, count))
            };
            integers(words: [__m256i; 2]) -> [__m256; 2] =
                words.map(|words| _mm256_cvtepi32_ps(words));
            look_up(table: &Lanes, words: [__m256i; 2]) -> [__m256; 2] = {
                let low = _mm256_loadu_ps(table.as_ptr());
                let high = _mm256_loadu_ps(table[8..].as_ptr());
                words.map(|words| {
                    let low = _mm256_permutevar8x32_ps(low, words);
                    let high = _mm256_permutevar8x32_ps(high, words);
                    // The fourth bit chooses, once it is where a sign is.
                    let fourth = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(words));
                    _mm256_blendv_ps(low, high, fourth)
                })
            };
            powers(bytes: &[u8; LANES]) -> [__m256; 2] = {
                let packed = _mm_loadu_si128(bytes.as_ptr().cast());
                let halves = [packed, _mm_unpackhi_epi64(packed, packed)];
                halves.map(|bytes| {
                    let powers = _mm256_slli_epi32::<23>(_mm256_cvtepu8_epi32(bytes));
                    // 2^-127 is subnormal.
                    _mm256_castsi256_ps(_mm256_max_epu32(powers, _mm256_set1_epi32(1 << 22)))
                })
            };
            e4m3(codes: &[u8; LANES]) -> [__m256; 2] = {
                let halves = halves_of_e4m3(codes);
                let (low, high) =
                    (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
                [low, high].map(|half| _mm256_cvtph_ps(half))
            };
        }
    }
}
