//! Weights on the device: where each lies, in slabs that are taken once.
//!
//! A matrix is `[rows, stride]` in the backend's type, its rows padded to 16 bytes; a norm's scale
//! or a bias is a vector of f32. Deliberately absent: reading and converting.

use super::ffi::failed;
#[cfg(test)]
use super::ffi::launch::Stream;
use super::ffi::memory::DeviceBuffer;
use crate::backend::check::WeightShape;
use crate::backend::{BackendError, Weight};

/// Every weight begins at a multiple of so many bytes.
const ALIGNMENT: usize = 256;
/// Elements to which a matrix's rows are padded.
const ROW_ELEMENTS: usize = 8;

/// Where a weight lies and how large it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) address: u64,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Elements from a row to the next.
    pub(super) stride: usize,
    /// Of f32, with one row.
    pub(super) is_vector: bool,
}

impl Placed {
    /// As arguments are checked against.
    pub(super) fn shape(&self) -> WeightShape {
        WeightShape { rows: self.rows, cols: self.cols }
    }

    /// Bytes, padding included.
    pub(super) fn bytes(&self) -> usize {
        let element = if self.is_vector { 4 } else { super::Half::BYTES };
        self.rows * self.stride * element
    }

    /// A weight of so many rows and columns, not yet anywhere. What has one row or one column is a
    /// vector.
    pub(super) fn nowhere(rows: usize, cols: usize) -> Self {
        let is_vector = rows == 1 || cols == 1;
        let (rows, cols) = if is_vector { (1, rows * cols) } else { (rows, cols) };
        let stride = if is_vector { cols } else { cols.next_multiple_of(ROW_ELEMENTS) };
        Self { address: 0, rows, cols, stride, is_vector }
    }
}

/// All weights.
#[derive(Default)]
pub(super) struct Weights {
    /// One for all weights that were loaded together.
    slabs: Vec<DeviceBuffer>,
    placed: Vec<Placed>,
}

impl Weights {
    /// Takes memory for weights; of each the handle, and the byte of the new slab where it begins.
    pub(super) fn place(
        &mut self,
        weights: &[Placed],
    ) -> Result<Vec<(Weight, usize)>, BackendError> {
        let room = |weight: &Placed| weight.bytes().next_multiple_of(ALIGNMENT);
        let slab = DeviceBuffer::new(weights.iter().map(room).sum())?;
        let mut handles = Vec::with_capacity(weights.len());
        let mut at = 0;
        for weight in weights {
            let index = u32::try_from(self.placed.len());
            let index = index.map_err(|_| failed("load", "too many weights"))?;
            self.placed.push(Placed { address: slab.address() + at as u64, ..*weight });
            handles.push((Weight(index), at));
            at += room(weight);
        }
        self.slabs.push(slab);
        Ok(handles)
    }

    /// The slab of the weights placed last.
    pub(super) fn slab(&self) -> &DeviceBuffer {
        &self.slabs[self.slabs.len() - 1]
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        self.slabs.iter().map(DeviceBuffer::bytes).sum()
    }

    /// The weight behind a handle.
    pub(super) fn get(
        &self,
        operation: &'static str,
        weight: Weight,
    ) -> Result<Placed, BackendError> {
        self.placed.get(weight.0 as usize).copied().ok_or_else(|| BackendError::Args {
            operation,
            cause: format!("{weight:?} was never loaded"),
        })
    }

    /// The matrix behind a handle.
    pub(super) fn matrix(
        &self,
        operation: &'static str,
        weight: Weight,
    ) -> Result<Placed, BackendError> {
        self.of_kind(operation, weight, false)
    }

    /// The vector behind a handle.
    pub(super) fn vector(
        &self,
        operation: &'static str,
        weight: Weight,
    ) -> Result<Placed, BackendError> {
        self.of_kind(operation, weight, true)
    }

    /// The vector behind a handle that an operation may lack.
    pub(super) fn optional(
        &self,
        operation: &'static str,
        weight: Option<Weight>,
    ) -> Result<Option<Placed>, BackendError> {
        weight.map(|weight| self.vector(operation, weight)).transpose()
    }

    /// Makes a row of a matrix not a number.
    #[cfg(test)]
    pub(super) fn poison_row(&self, weight: Weight, row: usize, stream: &Stream) {
        let placed = self.placed[weight.0 as usize];
        let bytes = placed.stride * super::Half::BYTES;
        let address = placed.address + (row * bytes) as u64;
        let holds =
            |slab: &&DeviceBuffer| (0..slab.bytes() as u64).contains(&(address - slab.address()));
        let slab = self.slabs.iter().filter(|slab| slab.address() <= address).find(holds).unwrap();
        let at = usize::try_from(address - slab.address()).unwrap();
        slab.write(at, &vec![0xff; bytes], stream).unwrap();
    }

    fn of_kind(
        &self,
        operation: &'static str,
        weight: Weight,
        is_vector: bool,
    ) -> Result<Placed, BackendError> {
        let placed = self.get(operation, weight)?;
        if placed.is_vector == is_vector {
            return Ok(placed);
        }
        let wanted = if is_vector { "vector" } else { "matrix" };
        let cause = format!("{weight:?} is [{}, {}], no {wanted}", placed.rows, placed.cols);
        Err(BackendError::Args { operation, cause })
    }
}
