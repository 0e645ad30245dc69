//! Reference meaning of the packed types: what the bits of a row are worth in f32.
//!
//! For embedding look-ups, oracles and tests. Simple on purpose: products over packed weights have
//! their own kernels, which are compared with this. Formats as in ggml-common.h.

use half::f16;

use crate::{DType, Error, ErrorKind};

/// Unpacks `packed`, whole blocks of `dtype`, into `out`.
///
/// # Errors
/// [`ErrorKind::Mismatch`] when `packed` does not hold exactly `out.len()` elements.
pub fn dequantize_row(dtype: DType, packed: &[u8], out: &mut [f32]) -> Result<(), Error> {
    let wanted = u64::try_from(out.len()).ok().and_then(|elems| dtype.bytes_of(elems));
    if wanted != u64::try_from(packed.len()).ok() {
        let name = dtype.name();
        let cause = format!("{} bytes of {name} are not {} elements", packed.len(), out.len());
        return Err(Error::new(ErrorKind::Mismatch, cause));
    }
    let blocks = packed.chunks_exact(dtype.block_bytes() as usize);
    for (block, out) in blocks.zip(out.chunks_exact_mut(dtype.block_elems() as usize)) {
        match dtype {
            DType::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
            DType::F16 => out[0] = half_at(block, 0),
            DType::Q8_0 => q8_0(block, out),
            DType::Q4_1 => q4_1(block, out),
            DType::BF16 => out[0] = f32::from_le_bytes([0, 0, block[0], block[1]]),
        }
    }
    Ok(())
}

/// f16 scale, 32 signed bytes: `scale * q`.
fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (out, q) in out.iter_mut().zip(&block[2..]) {
        *out = scale * f32::from(q.cast_signed());
    }
}

/// f16 scale, f16 minimum, 16 bytes: `scale * q + minimum`; low nibbles are elements 0..16, high
/// nibbles 16..32.
fn q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (low, high) = out.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&block[4..]) {
        *low = scale * f32::from(q & 15) + minimum;
        *high = scale * f32::from(q >> 4) + minimum;
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
