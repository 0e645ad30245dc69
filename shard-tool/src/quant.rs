//! The order of bits within the blocks of quantised types. No other file knows it.
//!
//! [`codes`] unpacks a block's integers in the order of elements, out of the nibbles and high bits
//! that hold them. [`k_scales`] unpacks the six-bit scales of a super-block. The values of the
//! integers are the affair of [`crate::dequant`], and of the kernels that multiply with them. The
//! formats are those of ggml-common.h and ggml-quants.c.

use crate::DType;

/// Unpacks the integers of one block without sign or offset, so that four bits give `0..16`.
/// `block` and `out` must have the lengths of a block of `dtype`. A plain type has no integers, and
/// leaves `out` unchanged.
pub fn codes(dtype: DType, block: &[u8], out: &mut [u8]) {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => {}
        DType::FP8_BLOCK => out.copy_from_slice(&block[4..]),
        DType::F8_E4M3 | DType::U8 => out.copy_from_slice(block),
        DType::MXFP4 => nibbles(&block[1..], 16, out),
        DType::Q4_0 => nibbles(&block[2..], 16, out),
        DType::Q4_1 => nibbles(&block[4..], 16, out),
        DType::Q5_0 => {
            nibbles(&block[6..], 16, out);
            fifth_bits(out, |index| block[2 + index / 8] >> (index % 8));
        }
        DType::Q5_1 => {
            nibbles(&block[8..], 16, out);
            fifth_bits(out, |index| block[4 + index / 8] >> (index % 8));
        }
        DType::Q8_0 => out.copy_from_slice(&block[2..]),
        DType::Q4_K => nibbles(&block[16..], 32, out),
        DType::Q5_K => {
            nibbles(&block[48..], 32, out);
            fifth_bits(out, |index| block[16 + index % 32] >> (index / 32));
        }
        DType::Q6_K => {
            nibbles(&block[..128], 64, out);
            for (out, high) in out.chunks_exact_mut(128).zip(block[128..192].chunks_exact(32)) {
                for (index, out) in out.iter_mut().enumerate() {
                    *out |= (high[index % 32] >> (2 * (index / 32)) & 3) << 4;
                }
            }
        }
    }
}

/// Unpacks the six-bit scales and minimums of the eight sub-blocks of a Q4_K or Q5_K block. The
/// first four of both lie in whole bytes, whose upper two bits belong to the last four.
#[must_use]
pub fn k_scales(block: &[u8]) -> ([u8; 8], [u8; 8]) {
    let packed = &block[4..16];
    let (mut scales, mut minimums) = ([0; 8], [0; 8]);
    for index in 0..4 {
        let (scale, minimum, both) = (packed[index], packed[4 + index], packed[8 + index]);
        scales[index] = scale & 63;
        minimums[index] = minimum & 63;
        scales[4 + index] = both & 15 | scale >> 6 << 4;
        minimums[4 + index] = both >> 4 | minimum >> 6 << 4;
    }
    (scales, minimums)
}

/// The value of four bits E2M1: sign, two bits of exponent, one of mantissa; minus zero is zero.
/// OCP Microscaling Formats 1.0, 5.3.3.
pub const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The power of two that a byte E8M0 stands for; 255 is NaN. OCP Microscaling Formats 1.0, 5.4.1.
#[must_use]
pub fn e8m0(byte: u8) -> f32 {
    match byte {
        // 2^-127 is subnormal.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

/// The value of eight bits E4M3: sign, four bits of exponent, three of mantissa; no infinities, and
/// NaN where all other bits are one. FP8 Formats for Deep Learning, arXiv 2209.05433.
#[must_use]
pub fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let size = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2.0_f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2.0_f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { size } else { -size }
}

/// Unpacks the low nibbles of each `width` bytes, then the high ones.
fn nibbles(bytes: &[u8], width: usize, out: &mut [u8]) {
    for (bytes, out) in bytes.chunks_exact(width).zip(out.chunks_exact_mut(2 * width)) {
        let (low, high) = out.split_at_mut(width);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
    }
}

/// Adds the fifth bit of each element, which is the lowest bit of what `bit` returns.
fn fifth_bits(out: &mut [u8], bit: impl Fn(usize) -> u8) {
    for (index, out) in out.iter_mut().enumerate() {
        *out |= (bit(index) & 1) << 4;
    }
}
