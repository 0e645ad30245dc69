//! The door to vector instructions: which set this machine has, and running a kernel under it.
//!
//! Kernels are safe code over arrays of sixteen lanes, written once; [`Level::run`] compiles each
//! of them under every instruction set that we know, and LLVM turns lanes into registers. Unsafe
//! is only the promise that the machine has what the compiler was allowed to use. Deliberately
//! absent: arithmetic, and any choice that would change the order of a sum.
#![allow(unsafe_code, reason = "calls of #[target_feature] functions, after detection")]

/// Lanes of a register as kernels see it, whatever the machine's real width.
pub(super) const LANES: usize = 16;
/// One register's worth of numbers.
pub(super) type Lanes = [f32; LANES];

/// An instruction set. Its methods are inlined into kernels, so they compile for that set.
pub(super) trait Isa: Copy + Send + Sync {
    /// Whether `a * b + c` is one instruction with one rounding.
    const FUSED: bool;

    /// Half precision to single.
    fn halves(bits: &[u16; LANES]) -> Lanes;

    /// `a * b + c`.
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        if Self::FUSED { a.mul_add(b, c) } else { a * b + c }
    }
}

/// A piece of work that is compiled once per instruction set.
pub(super) trait Kernel {
    /// What it returns.
    type Out;
    /// Does the work. Must be `#[inline(always)]`, and so must be what it calls, or it compiles for
    /// the oldest machine.
    fn run<I: Isa>(self) -> Self::Out;
}

/// The instruction set in use. Made only by [`Level::best`] and [`Level::available`], so having a
/// value of it proves that the machine has the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
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
                levels.push(Self(Kind::Avx512));
            }
            if avx2 {
                levels.push(Self(Kind::Avx2));
            }
        }
        levels.push(Self(Kind::Portable));
        levels
    }

    /// Runs `kernel` as compiled for this set.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            Kind::Portable => kernel.run::<Portable>(),
            // SAFETY: `available` made this value after it saw avx2, fma and f16c.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { x86::run_avx2(kernel) },
            // SAFETY: `available` made this value after it saw every feature that the function
            // names.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { x86::run_avx512(kernel) },
        }
    }
}

/// What every machine of the target has.
#[derive(Clone, Copy)]
struct Portable;

impl Isa for Portable {
    const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

    #[inline(always)]
    fn halves(bits: &[u16; LANES]) -> Lanes {
        bits.map(|bits| half::f16::from_bits(bits).to_f32_const())
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256, _mm_loadu_si128, _mm256_cvtph_ps, _mm256_loadu_si256, _mm256_storeu_ps,
        _mm512_cvtph_ps, _mm512_storeu_ps,
    };

    use super::{Isa, Kernel, LANES, Lanes};

    #[derive(Clone, Copy)]
    struct Avx2;
    #[derive(Clone, Copy)]
    struct Avx512;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
        kernel.run::<Avx2>()
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Out {
        kernel.run::<Avx512>()
    }

    impl Isa for Avx2 {
        const FUSED: bool = true;

        #[inline(always)]
        fn halves(bits: &[u16; LANES]) -> Lanes {
            let mut lanes = [0.0; LANES];
            let (low, high) = lanes.split_at_mut(8);
            // SAFETY: `Avx2` is named only by `run_avx2`, whose caller proved f16c.
            unsafe { halves8(&bits[..8], low) };
            // SAFETY: as above.
            unsafe { halves8(&bits[8..], high) };
            lanes
        }
    }

    impl Isa for Avx512 {
        const FUSED: bool = true;

        #[inline(always)]
        fn halves(bits: &[u16; LANES]) -> Lanes {
            // SAFETY: `Avx512` is named only by `run_avx512`, whose caller proved avx512f.
            unsafe { halves16(bits) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn halves8(bits: &[u16], lanes: &mut [f32]) {
        assert!(bits.len() == 8 && lanes.len() == 8, "eight lanes");
        // SAFETY: reads 16 bytes at any alignment: eight halves, asserted above.
        let packed: __m128i = unsafe { _mm_loadu_si128(bits.as_ptr().cast()) };
        let wide: __m256 = _mm256_cvtph_ps(packed);
        // SAFETY: writes 32 bytes at any alignment: eight floats, asserted above.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), wide) };
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn halves16(bits: &[u16; LANES]) -> Lanes {
        let mut lanes = [0.0; LANES];
        // SAFETY: reads 32 bytes at any alignment, and the array has them.
        let packed = unsafe { _mm256_loadu_si256(bits.as_ptr().cast()) };
        let wide = _mm512_cvtph_ps(packed);
        // SAFETY: writes 64 bytes at any alignment, and the array has them.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), wide) };
        lanes
    }
}
