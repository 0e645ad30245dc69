//! Weights from a checkpoint, or made up, to the device.
//!
//! Columns that this rank does not feed are left out. How rows travel is `upload.rs`'s, and how
//! they lie is in `formats/`.

use binfer_kernels::list;
use binfer_kernels::params::FillParams;
use binfer_shard::{DType, Error, LocalPart, LocalTensor};

use super::device::CudaDevice;
use super::formats::{RowFormat, WeightFormat};
use super::upload::{self, PartRows};
use super::weights::{DeviceWeight, Weights};
use crate::backend::{BackendError, Weight};

/// Random weights lie within this of 0.
const RANDOM_RANGE: f32 = 0.03;
/// Blocks that fill a tensor.
const FILL_BLOCKS: u32 = 1024;

/// Puts tensors on a device.
pub(super) struct Loader<'a> {
    pub(super) weights: &'a mut Weights,
    pub(super) device: &'a CudaDevice,
    /// Threads that read and convert.
    pub(super) threads: usize,
}

impl Loader<'_> {
    /// Reads, converts and uploads tensors, whose parts' bytes `open` gives from first to last.
    pub(super) fn load<R: FnMut(&mut [u8]) -> Result<(), Error>>(
        mut self,
        tensors: &[LocalTensor],
        open: impl Fn(&LocalPart) -> Result<R, Error> + Sync,
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        tensors.iter().try_for_each(check)?;
        let (layouts, places) = self.place(tensors)?;
        let mut parts = Vec::new();
        for ((tensor, weight), (_, first)) in tensors.iter().zip(&layouts).zip(&places) {
            let mut at = *first;
            for part in &tensor.parts {
                let rows = rows(part, weight, at);
                at += rows.bytes();
                parts.push(rows);
            }
        }
        let to = (self.weights.slab(), &self.device.stream);
        upload::upload(parts, open, self.threads, to, done)?;
        Ok(places.into_iter().map(|(weight, _)| weight).collect())
    }

    /// Makes tensors up on the device: uniform numbers, or ones where one is the scale of a norm.
    pub(super) fn fill(
        mut self,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        let (layouts, places) = self.place(tensors)?;
        let slab = self.weights.slab().address();
        let mut bytes = 0;
        for ((seed, tensor), (weight, (_, at))) in
            (1_u64..).zip(tensors).zip(layouts.iter().zip(&places))
        {
            let (kernel, count) = match weight {
                DeviceWeight::Vector(vector) => (list::FILL_F32, vector.len),
                DeviceWeight::Matrix(matrix) => match matrix.format {
                    WeightFormat::Dense(_) => (list::FILL, matrix.rows * matrix.stride),
                },
            };
            let params = FillParams {
                out: slab + *at as u64,
                count: count as u64,
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

    /// Takes memory, and says how each tensor lies, its handle, and where it begins in the slab.
    fn place(&mut self, tensors: &[LocalTensor]) -> Result<Layouts, BackendError> {
        let half = self.device.half;
        let layout = |tensor: &LocalTensor| {
            let part = tensor.parts.first();
            let (fed, dtype) = part.map_or((0, DType::F32), |part| (part.inputs.len(), part.dtype));
            DeviceWeight::nowhere(tensor.rows() as usize, fed, WeightFormat::of(dtype, half))
        };
        let layouts: Vec<_> = tensors.iter().map(layout).collect();
        let places = self.weights.place(&layouts)?;
        Ok((layouts, places))
    }
}

/// How each tensor lies; its handle, and the byte of the slab where it begins.
type Layouts = (Vec<DeviceWeight>, Vec<(Weight, usize)>);

/// The rows of a part as they will lie from byte `at` of the slab on.
fn rows<'t>(part: &'t LocalPart, weight: &DeviceWeight, at: usize) -> PartRows<'t> {
    let (format, row_bytes) = match weight {
        DeviceWeight::Vector(_) => (RowFormat::Vector, part.inputs.len() * size_of::<f32>()),
        DeviceWeight::Matrix(matrix) => {
            (RowFormat::Matrix(matrix.format), matrix.format.row_bytes(matrix.stride))
        }
    };
    PartRows { part, at, format, row_bytes }
}

/// Refuses a tensor whose parts do not have the same columns, of which the same are fed.
fn check(tensor: &LocalTensor) -> Result<(), BackendError> {
    let refuse = |cause: &str| BackendError::Args {
        operation: "load",
        cause: format!("{}: {cause}", tensor.name),
    };
    let first = tensor.parts.first().ok_or_else(|| refuse("no parts"))?;
    let same = |part: &LocalPart| (part.cols, &part.inputs) == (first.cols, &first.inputs);
    if tensor.parts.iter().all(same) { Ok(()) } else { Err(refuse("parts differ in columns")) }
}
