//! Reference dequantisation: the f32 values of packed rows.
//!
//! It is for oracles and tests, and gives the bits of the Python package `gguf`. It is simple on
//! purpose: the gemms over packed weights have kernels of their own, which are compared with it.
//! The formats are those of ggml-common.h.

use half::f16;

use crate::quant::{E2M1, codes, e4m3, e8m0, k_scales};
use crate::{DType, Error, ErrorKind};

/// The elements of the longest block.
const BLOCK_ELEMS_MAX: usize = 256;

/// Dequantises `packed`, which holds whole blocks of `dtype`, into `out`.
///
/// # Errors
/// [`ErrorKind::Mismatch`] if `packed` does not hold exactly `out.len()` elements.
pub fn dequantize_row(dtype: DType, packed: &[u8], out: &mut [f32]) -> Result<(), Error> {
    let wanted = u64::try_from(out.len()).ok().and_then(|elems| dtype.bytes_of(elems));
    if wanted != u64::try_from(packed.len()).ok() {
        let name = dtype.name();
        let cause = format!("{} bytes of {name} are not {} elements", packed.len(), out.len());
        return Err(Error::new(ErrorKind::Mismatch, cause));
    }
    let elems = dtype.block_elems() as usize;
    let mut held = [0; BLOCK_ELEMS_MAX];
    let q = &mut held[..elems];
    let blocks = packed.chunks_exact(dtype.block_bytes() as usize);
    for (block, out) in blocks.zip(out.chunks_exact_mut(elems)) {
        codes(dtype, block, q);
        match dtype {
            DType::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
            DType::F16 => out[0] = half_at(block, 0),
            DType::BF16 => out[0] = f32::from_le_bytes([0, 0, block[0], block[1]]),
            DType::MXFP4 => {
                let scale = e8m0(block[0]);
                out.iter_mut().zip(&*q).for_each(|(out, q)| *out = scale * E2M1[usize::from(*q)]);
            }
            DType::FP8_BLOCK => {
                let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                out.iter_mut().zip(&*q).for_each(|(out, q)| *out = scale * e4m3(*q));
            }
            DType::F8_E4M3 => out[0] = e4m3(q[0]),
            DType::U8 => out[0] = f32::from(q[0]),
            DType::Q4_0 => scaled(half_at(block, 0), q, 8.0, out),
            DType::Q5_0 => scaled(half_at(block, 0), q, 16.0, out),
            DType::Q4_1 | DType::Q5_1 => affine(half_at(block, 0), q, half_at(block, 2), out),
            DType::Q8_0 => {
                let scale = half_at(block, 0);
                for (out, q) in out.iter_mut().zip(&*q) {
                    *out = scale * f32::from(q.cast_signed());
                }
            }
            DType::Q4_K | DType::Q5_K => {
                let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
                let (scales, minimums) = k_scales(block);
                for (part, (q, out)) in q.chunks(32).zip(out.chunks_mut(32)).enumerate() {
                    let minimum = -(minimum * f32::from(minimums[part]));
                    affine(scale * f32::from(scales[part]), q, minimum, out);
                }
            }
            DType::Q6_K => {
                let scale = half_at(block, 208);
                let parts = block[192..208].iter().zip(q.chunks(16)).zip(out.chunks_mut(16));
                for ((factor, q), out) in parts {
                    scaled(scale * f32::from(factor.cast_signed()), q, 32.0, out);
                }
            }
        }
    }
    Ok(())
}

/// Writes `scale * (q - offset)` for each integer.
fn scaled(scale: f32, q: &[u8], offset: f32, out: &mut [f32]) {
    out.iter_mut().zip(q).for_each(|(out, q)| *out = scale * (f32::from(*q) - offset));
}

/// Writes `scale * q + minimum` for each integer.
fn affine(scale: f32, q: &[u8], minimum: f32, out: &mut [f32]) {
    out.iter_mut().zip(q).for_each(|(out, q)| *out = scale * f32::from(*q) + minimum);
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
