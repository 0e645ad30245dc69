//! Random blocks of every type, for tests of this crate and of others, which include this file by
//! `#[path]`.
#![allow(unreachable_pub, missing_docs, reason = "each user takes what it needs")]
#![allow(clippy::cast_possible_truncation, reason = "random bits")]

use binfer_shard::DType;
use half::f16;

/// One block, its weights between about `-size` and `size` (twice that with a minimum); `next`
/// gives 31 random bits or more.
pub fn block(dtype: DType, size: f32, next: &mut dyn FnMut() -> u64) -> Vec<u8> {
    let mut float = || size * ((next() & 0x7fff_ffff) as f32 / (1_u32 << 30) as f32 - 1.0);
    // Where the scale is, and what its integers reach; where the minimum is, and its factors.
    let (scale, minimum) = match dtype {
        DType::F32 => return float().to_le_bytes().to_vec(),
        DType::F16 => return f16::from_f32(float()).to_le_bytes().to_vec(),
        DType::BF16 => return float().to_le_bytes()[2..].to_vec(),
        DType::MXFP4 => {
            // Values reach six times the scale, whose exponent is that of `size / 8` or less.
            let exponent = (size / 8.0).abs().log2() as i32 + 127 - (next() % 3) as i32;
            let mut block = vec![exponent.clamp(0, 254) as u8];
            block.extend((0..16).map(|_| next() as u8));
            return block;
        }
        DType::FP8_BLOCK => {
            let mut block = (float() / 448.0).to_le_bytes().to_vec();
            // Not NaN.
            block.extend((0..128).map(|_| match next() as u8 {
                nan if nan & 0x7f == 0x7f => 0,
                code => code,
            }));
            return block;
        }
        DType::F8_E4M3 | DType::U8 => return vec![next() as u8 & 0x77],
        DType::Q4_0 => ((0, 8.0), None),
        DType::Q4_1 => ((0, 8.0), Some((2, 1.0))),
        DType::Q5_0 => ((0, 16.0), None),
        DType::Q5_1 => ((0, 16.0), Some((2, 1.0))),
        DType::Q8_0 => ((0, 127.0), None),
        DType::Q4_K => ((0, 63.0 * 8.0), Some((2, 63.0))),
        DType::Q5_K => ((0, 63.0 * 16.0), Some((2, 63.0))),
        DType::Q6_K => ((208, 127.0 * 32.0), None),
    };
    let halves = std::iter::once(scale).chain(minimum);
    let halves: Vec<_> =
        halves.map(|(at, reach)| (at, f16::from_f32(float() / reach).to_le_bytes())).collect();
    let mut block: Vec<u8> = (0..dtype.block_bytes()).map(|_| next() as u8).collect();
    for (at, half) in halves {
        block[at..at + 2].copy_from_slice(&half);
    }
    block
}
