//! Weights from a checkpoint, or made up, to the device.
//!
//! Columns that this rank does not feed are left out. How rows travel is `upload.rs`'s, how they
//! lie is in `formats/`, and how blocks that stay packed get there is `repack.rs`'s.

use binfer_kernels::list;
use binfer_kernels::params::FillParams;
use binfer_shard::{Error, LocalPart, LocalTensor};

use super::device::CudaDevice;
use super::ffi::memory::DeviceBuffer;
use super::formats::half::Half;
use super::formats::{RowFormat, WeightFormat};
use super::repack::{self, PackedTensor};
use super::upload::{self, PartRows};
use super::weights::{DeviceMatrix, DeviceWeight, Weights};
use crate::backend::random_weights::RandomElements;
use crate::backend::{BackendError, Weight};

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
        let (mut parts, mut bytes) = (Vec::new(), 0);
        for ((tensor, weight), (_, first)) in tensors.iter().zip(&layouts).zip(&places) {
            if weight.packed_format().is_none() {
                append_rows(&mut parts, tensor, weight, *first);
                bytes += tensor.bytes();
            }
        }
        let to = (self.weights.slab(), &self.device.stream);
        upload::upload(parts, &open, self.threads, to, done)?;
        let packed = packed(tensors, &layouts, &places);
        for turn in repack::turns(&packed) {
            self.load_packed(turn, &open, &mut |more| done(bytes + more))?;
            bytes += turn.iter().map(|packed| packed.tensor.bytes()).sum::<u64>();
        }
        Ok(places.into_iter().map(|(weight, _)| weight).collect())
    }

    /// Uploads the blocks of some packed tensors, and packs them anew.
    fn load_packed<R: FnMut(&mut [u8]) -> Result<(), Error>>(
        &self,
        turn: &[PackedTensor<'_>],
        open: &(impl Fn(&LocalPart) -> Result<R, Error> + Sync),
        done: &mut dyn FnMut(u64),
    ) -> Result<(), BackendError> {
        let staged = DeviceBuffer::new(turn.iter().map(PackedTensor::staged_bytes).sum())?;
        let (mut parts, mut at) = (Vec::new(), 0);
        for part in turn.iter().flat_map(|packed| &packed.tensor.parts) {
            let row_bytes = usize::try_from(part.row_bytes()).unwrap_or(usize::MAX);
            let rows = PartRows { part, at, format: RowFormat::AsTheyCome, row_bytes };
            at += rows.bytes();
            parts.push(rows);
        }
        upload::upload(parts, open, self.threads, (&staged, &self.device.stream), done)?;
        repack::repack(self.device, turn, &staged, self.weights.slab().address())
    }

    /// Makes tensors up on the device: uniform numbers, or ones where one is the scale of a norm.
    pub(super) fn fill(
        mut self,
        tensors: &[LocalTensor],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Weight>, BackendError> {
        let (layouts, places) = self.place(tensors)?;
        let slab = self.weights.slab().address();
        for packed in packed(tensors, &layouts, &places) {
            repack::fill(self.device, &packed, slab, (packed.at as u64) << 20)?;
        }
        let mut bytes = 0;
        for ((seed, tensor), (weight, (_, at))) in
            (1_u64..).zip(tensors).zip(layouts.iter().zip(&places))
        {
            bytes += tensor.bytes();
            let (kernel, count) = match weight {
                DeviceWeight::Vector(vector) => (list::FILL_F32, vector.len),
                DeviceWeight::Matrix(matrix) => match matrix.format {
                    WeightFormat::Dense(_) => (list::FILL, matrix.rows * matrix.stride),
                    WeightFormat::Packed(_) => continue,
                },
            };
            let params = FillParams {
                out: slab + *at as u64,
                count: count as u64,
                seed: seed << 40,
                range: match RandomElements::of(tensor) {
                    RandomElements::Ones => 0.0,
                    RandomElements::Within(range) => range,
                },
                reserved: 0,
            };
            self.device.launch(kernel, [FILL_BLOCKS, 1, 1], &params)?;
            done(bytes);
        }
        Ok(places.into_iter().map(|(weight, _)| weight).collect())
    }

    /// Takes memory, and says how each tensor lies, its handle, and where it begins in the slab.
    fn place(&mut self, tensors: &[LocalTensor]) -> Result<Layouts, BackendError> {
        let half = self.device.half;
        let layout = |tensor: &LocalTensor| {
            let fed = tensor.parts.first().map_or(0, |part| part.inputs.len());
            let format = WeightFormat::of_tensor(tensor, half);
            DeviceWeight::nowhere(tensor.rows() as usize, fed, format)
        };
        let layouts: Vec<_> = tensors.iter().map(layout).collect();
        let places = self.weights.place(&layouts)?;
        Ok((layouts, places))
    }
}

/// How each tensor lies; its handle, and the byte of the slab where it begins.
type Layouts = (Vec<DeviceWeight>, Vec<(Weight, usize)>);

/// Appends the rows of a tensor's parts, as they will lie from byte `at` of the slab on.
fn append_rows<'t>(
    parts: &mut Vec<PartRows<'t>>,
    tensor: &'t LocalTensor,
    weight: &DeviceWeight,
    mut at: usize,
) {
    for part in &tensor.parts {
        let (format, row_bytes) = match weight {
            DeviceWeight::Vector(_) => (RowFormat::Vector, part.inputs.len() * size_of::<f32>()),
            DeviceWeight::Matrix(DeviceMatrix {
                format: WeightFormat::Dense(half),
                stride,
                ..
            }) => (RowFormat::Dense(*half), stride * Half::BYTES),
            DeviceWeight::Matrix(_) => continue,
        };
        let rows = PartRows { part, at, format, row_bytes };
        at += rows.bytes();
        parts.push(rows);
    }
}

/// The packed ones of all tensors.
fn packed<'t>(
    tensors: &'t [LocalTensor],
    layouts: &[DeviceWeight],
    places: &[(Weight, usize)],
) -> Vec<PackedTensor<'t>> {
    let packed = |((tensor, weight), (_, at)): ((&'t LocalTensor, &DeviceWeight), &(_, usize))| {
        let (format, cols) = weight.packed_format()?;
        Some(PackedTensor { tensor, format, cols, at: *at })
    };
    tensors.iter().zip(layouts).zip(places).filter_map(packed).collect()
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
