//! Weights from their packed bytes to the device: converted row by row on all cores into pinned
//! memory, uploaded while the next piece is converted.
//!
//! Packed types are unpacked here, once. Columns that this rank does not feed are left out.

use binfer_kernels::list;
use binfer_kernels::params::FillParams;
use binfer_shard::dequant::dequantize_row;
use binfer_shard::{DType, LocalPart, LocalTensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::ffi::launch::Event;
use super::ffi::memory::PinnedBuffer;
use super::weights::Placed;
use super::{CudaBackend, Half};
use crate::backend::{BackendError, Weight};

/// Bytes of each of the two pieces in flight.
const PIECE_BYTES: usize = 32 << 20;
/// Random weights lie within this of 0.
const RANDOM_RANGE: f32 = 0.03;
/// Blocks that fill a tensor.
const FILL_BLOCKS: u32 = 1024;

/// Two pinned buffers used in turn.
pub(super) struct Staging {
    buffers: [PinnedBuffer; 2],
    uploaded: [Event; 2],
    next: usize,
}

impl Staging {
    fn new() -> Result<Self, BackendError> {
        let buffer = || PinnedBuffer::new(PIECE_BYTES);
        let buffers = [buffer()?, buffer()?];
        Ok(Self { buffers, uploaded: [Event::new()?, Event::new()?], next: 0 })
    }
}

/// A weight's size and layout as it will lie on the device.
pub(super) fn layout(tensor: &LocalTensor) -> Placed {
    let fed = tensor.parts.first().map_or(0, |part| part.inputs.len());
    Placed::nowhere(tensor.rows() as usize, fed)
}

impl CudaBackend {
    /// Converts and uploads a tensor out of its parts' bytes.
    pub(super) fn adopt(
        &mut self,
        tensor: &LocalTensor,
        parts: &[Vec<u8>],
    ) -> Result<Weight, BackendError> {
        check(tensor)?;
        let placed = layout(tensor);
        let (weight, mut at) = self.weights.place(placed)?;
        if placed.is_vector {
            let mut values = Vec::with_capacity(placed.cols);
            for (part, bytes) in tensor.parts.iter().zip(parts) {
                for packed in bytes.chunks(row_bytes(part)) {
                    values.extend(row(part, packed)?);
                }
            }
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.weights.slab().write(at, &bytes, &self.device.stream)?;
            return Ok(weight);
        }
        let out_row_bytes = placed.stride * Half::BYTES;
        let rows_of_piece = (PIECE_BYTES / out_row_bytes.max(1)).max(1);
        for (part, bytes) in tensor.parts.iter().zip(parts) {
            for piece in bytes.chunks(rows_of_piece * row_bytes(part)) {
                let rows = piece.len() / row_bytes(part);
                self.upload_piece(part, piece, at, rows * out_row_bytes)?;
                at += rows * out_row_bytes;
            }
        }
        Ok(weight)
    }

    /// Makes a tensor up on the device: uniform numbers, or ones where it is the scale of a norm.
    pub(super) fn fill(&mut self, tensor: &LocalTensor, seed: u64) -> Result<Weight, BackendError> {
        let mut placed = layout(tensor);
        let (weight, at) = self.weights.place(placed)?;
        placed.address = self.weights.slab().address() + at as u64;
        let kernel = if placed.is_vector { list::FILL_F32 } else { list::FILL };
        let params = FillParams {
            out: placed.address,
            count: (placed.rows * placed.stride) as u64,
            seed: seed << 40,
            range: if tensor.rows() == 1 { 0.0 } else { RANDOM_RANGE },
            reserved: 0,
        };
        self.device.launch(kernel, [FILL_BLOCKS, 1, 1], &params)?;
        Ok(weight)
    }

    /// Converts some rows of a part and enqueues their upload to byte `at` of the slab.
    fn upload_piece(
        &mut self,
        part: &LocalPart,
        piece: &[u8],
        at: usize,
        out_bytes: usize,
    ) -> Result<(), BackendError> {
        if self.staging.is_none() {
            self.staging = Some(Staging::new()?);
        }
        let Some(staging) = &mut self.staging else { return Ok(()) };
        let turn = staging.next;
        staging.next = 1 - turn;
        staging.uploaded[turn].wait()?;
        let half = self.settings.half;
        let out = staging.buffers[turn].first_mut(out_bytes);
        let out_row_bytes = out_bytes / (piece.len() / row_bytes(part)).max(1);
        out.par_chunks_mut(out_row_bytes)
            .zip(piece.par_chunks(row_bytes(part)))
            .try_for_each(|(out, packed)| convert(part, packed, half, out))?;
        let slab = self.weights.slab();
        slab.write_pinned(at, &staging.buffers[turn], out_bytes, &self.device.stream)?;
        staging.uploaded[turn].record(&self.device.stream)
    }
}

fn row_bytes(part: &LocalPart) -> usize {
    usize::try_from(part.row_bytes()).unwrap_or(usize::MAX).max(1)
}

/// All parts have the same columns, of which the same are fed.
fn check(tensor: &LocalTensor) -> Result<(), BackendError> {
    let refuse = |cause: &str| BackendError::Args {
        operation: "load",
        cause: format!("{}: {cause}", tensor.name),
    };
    let first = tensor.parts.first().ok_or_else(|| refuse("no parts"))?;
    let same = |part: &LocalPart| (part.cols, &part.inputs) == (first.cols, &first.inputs);
    if tensor.parts.iter().all(same) { Ok(()) } else { Err(refuse("parts differ in columns")) }
}

/// The fed elements of a packed row.
fn row(part: &LocalPart, packed: &[u8]) -> Result<Vec<f32>, BackendError> {
    let mut row = vec![0.0; part.cols as usize];
    dequantize_row(part.dtype, packed, &mut row)?;
    row.truncate(part.inputs.end as usize);
    Ok(row.split_off(part.inputs.start as usize))
}

/// Writes a packed row in the backend's type, padded with zeros.
fn convert(
    part: &LocalPart,
    packed: &[u8],
    half: Half,
    out: &mut [u8],
) -> Result<(), BackendError> {
    let same = matches!((part.dtype, half), (DType::BF16, Half::Bf16) | (DType::F16, Half::F16));
    let fed_bytes = part.inputs.len() * Half::BYTES;
    if same {
        let from = &packed[part.inputs.start as usize * Half::BYTES..][..fed_bytes];
        out[..fed_bytes].copy_from_slice(from);
    } else {
        let values = row(part, packed)?;
        for (out, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
            *out = match half {
                Half::Bf16 => bf16::from_f32(value).to_le_bytes(),
                Half::F16 => f16::from_f32(value).to_le_bytes(),
            };
        }
    }
    out[fed_bytes..].fill(0);
    Ok(())
}
