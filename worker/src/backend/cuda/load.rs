//! Weights from their packed rows to the device's layout and type.
//!
//! Packed types are unpacked here, once; columns that this rank does not feed are left out. Deliberately
//! absent: how rows travel, which is `upload.rs`.

use binfer_kernels::list;
use binfer_kernels::params::FillParams;
use binfer_shard::dequant::dequantize_row;
use binfer_shard::{DType, Error, LocalPart, LocalTensor};
use half::{bf16, f16};

use super::upload::{self, Rows};
use super::weights::Placed;
use super::{CudaBackend, Half};
use crate::backend::{BackendError, Weight};

/// Random weights lie within this of 0.
const RANDOM_RANGE: f32 = 0.03;
/// Blocks that fill a tensor.
const FILL_BLOCKS: u32 = 1024;

/// Type of an element on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// Of vectors.
    Single,
    /// Of matrices.
    Half(Half),
}

/// A weight's size and layout as it will lie on the device.
fn layout(tensor: &LocalTensor) -> Placed {
    let fed = tensor.parts.first().map_or(0, |part| part.inputs.len());
    Placed::nowhere(tensor.rows() as usize, fed)
}

impl CudaBackend {
    /// Reads, converts and uploads tensors, whose parts' bytes `open` gives from first to last.
    pub(super) fn adopt<R: FnMut(&mut [u8]) -> Result<(), Error>>(
        &mut self,
        tensors: &[LocalTensor],
        open: impl Fn(&LocalPart) -> Result<R, Error> + Sync,
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        tensors.iter().try_for_each(check)?;
        let layouts: Vec<Placed> = tensors.iter().map(layout).collect();
        let places = self.weights.place(&layouts)?;
        let mut parts = Vec::new();
        for ((tensor, placed), (_, first)) in tensors.iter().zip(&layouts).zip(&places) {
            let mut at = *first;
            for part in &tensor.parts {
                let rows = self.rows(part, placed, at);
                at += rows.bytes();
                parts.push(rows);
            }
        }
        let (slab, stream) = (self.weights.slab(), &self.device.stream);
        upload::upload(parts, open, self.settings.threads, (slab, stream), done)?;
        Ok(places.into_iter().map(|(weight, _)| weight).collect())
    }

    /// The rows of a part as they will lie from byte `at` of the slab on.
    fn rows<'t>(&self, part: &'t LocalPart, placed: &Placed, at: usize) -> Rows<'t> {
        let fed = part.inputs.len();
        let (element, row_bytes) = if placed.is_vector {
            (Element::Single, fed * size_of::<f32>())
        } else {
            (Element::Half(self.settings.half), placed.stride * Half::BYTES)
        };
        Rows { part, at, element, row_bytes }
    }

    /// Makes tensors up on the device: uniform numbers, or ones where one is the scale of a norm.
    pub(super) fn fill(
        &mut self,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        let layouts: Vec<Placed> = tensors.iter().map(layout).collect();
        let places = self.weights.place(&layouts)?;
        let slab = self.weights.slab().address();
        let mut bytes = 0;
        for ((seed, tensor), (placed, (_, at))) in
            (1_u64..).zip(tensors).zip(layouts.iter().zip(&places))
        {
            let kernel = if placed.is_vector { list::FILL_F32 } else { list::FILL };
            let params = FillParams {
                out: slab + *at as u64,
                count: (placed.rows * placed.stride) as u64,
                seed: seed << 40,
                range: if tensor.rows() == 1 { 0.0 } else { RANDOM_RANGE },
                reserved: 0,
            };
            self.device.launch(kernel, [FILL_BLOCKS, 1, 1], &params)?;
            bytes += tensor.bytes();
            done(bytes);
        }
        Ok(places.into_iter().map(|(weight, _)| weight).collect())
    }
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

impl Rows<'_> {
    /// Bytes of a row as it comes.
    pub(super) fn packed_bytes(&self) -> usize {
        usize::try_from(self.part.row_bytes()).unwrap_or(usize::MAX).max(1)
    }

    /// Whether rows lie on the device as they come.
    pub(super) fn are_alike(&self) -> bool {
        let same = matches!(
            (self.part.dtype, self.element),
            (DType::BF16, Element::Half(Half::Bf16))
                | (DType::F16, Element::Half(Half::F16))
                | (DType::F32, Element::Single)
        );
        same && self.part.inputs.len() == self.part.cols as usize
            && self.row_bytes == self.packed_bytes()
    }

    /// Writes a packed row as it lies on the device, padded with zeros. `values` is scratch.
    pub(super) fn convert(
        &self,
        packed: &[u8],
        values: &mut Vec<f32>,
        out: &mut [u8],
    ) -> Result<(), BackendError> {
        values.resize(self.part.cols as usize, 0.0);
        dequantize_row(self.part.dtype, packed, values)?;
        let fed = &values[self.part.inputs.start as usize..self.part.inputs.end as usize];
        let element_bytes = match self.element {
            Element::Single => {
                write(fed, out, f32::to_le_bytes);
                size_of::<f32>()
            }
            Element::Half(Half::Bf16) => {
                write(fed, out, |value| bf16::from_f32(value).to_le_bytes());
                Half::BYTES
            }
            Element::Half(Half::F16) => {
                write(fed, out, |value| f16::from_f32(value).to_le_bytes());
                Half::BYTES
            }
        };
        out[fed.len() * element_bytes..].fill(0);
        Ok(())
    }
}

fn write<const N: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (out, value) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *out = bytes(*value);
    }
}
