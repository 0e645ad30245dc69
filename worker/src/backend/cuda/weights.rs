//! Weights on the device: where each lies and in which format, in slabs that are taken once.
//!
//! Reading and converting is `load.rs`'s, and the formats themselves are in `formats/`.

use super::ffi::error::failed;
#[cfg(test)]
use super::ffi::launch::CudaStream;
use super::ffi::memory::DeviceBuffer;
use super::formats::WeightFormat;
use super::formats::packed::PackedFormat;
use crate::backend::check::WeightShape;
use crate::backend::{BackendError, Weight};

/// Every weight begins at a multiple of so many bytes.
const ALIGNMENT: usize = 256;

/// A matrix on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceMatrix {
    pub(super) address: u64,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Elements from a row to the next, padding included.
    pub(super) stride: usize,
    pub(super) format: WeightFormat,
}

/// A vector of f32 on the device: the scale of a norm, a bias, sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceVector {
    pub(super) address: u64,
    pub(super) len: usize,
}

impl DeviceMatrix {
    /// The shape that arguments are checked against.
    pub(super) fn shape(&self) -> WeightShape {
        WeightShape { rows: self.rows, cols: self.cols }
    }
}

impl DeviceVector {
    /// The shape that arguments are checked against.
    pub(super) fn shape(&self) -> WeightShape {
        WeightShape { rows: 1, cols: self.len }
    }
}

/// A weight on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeviceWeight {
    Matrix(DeviceMatrix),
    Vector(DeviceVector),
}

impl DeviceWeight {
    /// A weight of so many rows and columns that lies nowhere yet. One row or one column make a
    /// vector.
    pub(super) fn nowhere(rows: usize, cols: usize, format: WeightFormat) -> Self {
        if rows == 1 || cols == 1 {
            return Self::Vector(DeviceVector { address: 0, len: rows * cols });
        }
        Self::Matrix(DeviceMatrix { address: 0, rows, cols, stride: format.stride(cols), format })
    }

    /// Bytes, padding included.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Matrix(matrix) => matrix.format.matrix_bytes(matrix.rows, matrix.stride),
            Self::Vector(vector) => vector.len * size_of::<f32>(),
        }
    }

    /// The packed format of a matrix, and the columns that are fed; none of a dense one.
    pub(super) fn packed_format(&self) -> Option<(PackedFormat, usize)> {
        match self {
            Self::Matrix(DeviceMatrix { format: WeightFormat::Packed(format), cols, .. }) => {
                Some((*format, *cols))
            }
            _ => None,
        }
    }

    fn at(self, address: u64) -> Self {
        match self {
            Self::Matrix(matrix) => Self::Matrix(DeviceMatrix { address, ..matrix }),
            Self::Vector(vector) => Self::Vector(DeviceVector { address, ..vector }),
        }
    }
}

/// All weights.
#[derive(Default)]
pub(super) struct Weights {
    /// One for all weights that were loaded together.
    slabs: Vec<DeviceBuffer>,
    placed: Vec<DeviceWeight>,
}

impl Weights {
    /// Takes memory for weights. Of each the handle, and the byte of the new slab where it begins.
    pub(super) fn place(
        &mut self,
        weights: &[DeviceWeight],
    ) -> Result<Vec<(Weight, usize)>, BackendError> {
        let room = |weight: &DeviceWeight| weight.bytes().next_multiple_of(ALIGNMENT);
        let slab = DeviceBuffer::new(weights.iter().map(room).sum())?;
        let mut handles = Vec::with_capacity(weights.len());
        let mut at = 0;
        for weight in weights {
            let index = u32::try_from(self.placed.len());
            let index = index.map_err(|_| failed("load", "too many weights"))?;
            self.placed.push(weight.at(slab.address() + at as u64));
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
    ) -> Result<DeviceWeight, BackendError> {
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
    ) -> Result<DeviceMatrix, BackendError> {
        match self.get(operation, weight)? {
            DeviceWeight::Matrix(matrix) => Ok(matrix),
            DeviceWeight::Vector(DeviceVector { len, .. }) => {
                let cause = format!("{weight:?} is [1, {len}], no matrix");
                Err(BackendError::Args { operation, cause })
            }
        }
    }

    /// The matrix behind a handle, whose elements are of the backend's own type.
    pub(super) fn dense(
        &self,
        operation: &'static str,
        weight: Weight,
    ) -> Result<DeviceMatrix, BackendError> {
        let matrix = self.matrix(operation, weight)?;
        match matrix.format {
            WeightFormat::Dense(_) => Ok(matrix),
            WeightFormat::Packed(format) => {
                let what = format!("weights [{}, {}] in {format:?}", matrix.rows, matrix.cols);
                Err(BackendError::NoKernel { operation, what })
            }
        }
    }

    /// The vector behind a handle.
    pub(super) fn vector(
        &self,
        operation: &'static str,
        weight: Weight,
    ) -> Result<DeviceVector, BackendError> {
        match self.get(operation, weight)? {
            DeviceWeight::Vector(vector) => Ok(vector),
            DeviceWeight::Matrix(DeviceMatrix { rows, cols, .. }) => {
                let cause = format!("{weight:?} is [{rows}, {cols}], no vector");
                Err(BackendError::Args { operation, cause })
            }
        }
    }

    /// The vector behind a handle that an operation may lack.
    pub(super) fn optional(
        &self,
        operation: &'static str,
        weight: Option<Weight>,
    ) -> Result<Option<DeviceVector>, BackendError> {
        weight.map(|weight| self.vector(operation, weight)).transpose()
    }

    /// Makes a row of a matrix not a number.
    #[cfg(test)]
    pub(super) fn poison_row(&self, weight: Weight, row: usize, stream: &CudaStream) {
        let matrix = self.matrix("poison", weight).unwrap();
        let bytes = matrix.format.matrix_bytes(1, matrix.stride);
        let address = matrix.address + (row * bytes) as u64;
        let holds =
            |slab: &&DeviceBuffer| (0..slab.bytes() as u64).contains(&(address - slab.address()));
        let slab = self.slabs.iter().filter(|slab| slab.address() <= address).find(holds).unwrap();
        let at = usize::try_from(address - slab.address()).unwrap();
        slab.write(at, &vec![0xff; bytes], stream).unwrap();
    }
}
