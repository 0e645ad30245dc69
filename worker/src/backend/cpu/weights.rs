//! Weights as the operations want them, and what is behind a handle.

use binfer_shard::spec::TensorCut;

use super::matrix::PackedMatrix;
use crate::backend::check::WeightShape;
use crate::backend::{BackendError, Weight};

/// A weight as the operations want it.
pub(super) enum Loaded {
    /// One row, or one column: the scale of a norm, a bias.
    Vector(Vec<f32>),
    Matrix(PackedMatrix),
    /// One matrix for each expert.
    Experts(PackedMatrix),
}

impl Loaded {
    pub(super) fn new(matrix: PackedMatrix, cut: TensorCut) -> Self {
        if matrix.rows() != 1 && matrix.cols() != 1 {
            let is_experts = matches!(cut, TensorCut::Experts(_));
            return if is_experts { Self::Experts(matrix) } else { Self::Matrix(matrix) };
        }
        let mut vector = vec![0.0; matrix.rows() * matrix.cols()];
        for (row, out) in vector.chunks_mut(matrix.cols().max(1)).enumerate() {
            matrix.read_row(row, out);
        }
        Self::Vector(vector)
    }

    pub(super) fn shape(&self) -> WeightShape {
        match self {
            Self::Vector(vector) => WeightShape::of_vector(vector),
            Self::Matrix(matrix) | Self::Experts(matrix) => {
                WeightShape { rows: matrix.rows(), cols: matrix.inputs().len() }
            }
        }
    }
}

/// The weight behind a handle.
pub(super) fn loaded<'a>(
    weights: &'a [Loaded],
    operation: &'static str,
    weight: Weight,
) -> Result<&'a Loaded, BackendError> {
    let refuse = || BackendError::Args { operation, cause: format!("{weight:?} was never loaded") };
    weights.get(weight.0 as usize).ok_or_else(refuse)
}

/// The shape of the weight behind a handle.
pub(super) fn shape_of(
    weights: &[Loaded],
    operation: &'static str,
    weight: Weight,
) -> Result<WeightShape, BackendError> {
    loaded(weights, operation, weight).map(Loaded::shape)
}

/// The matrix behind a handle.
pub(super) fn matrix<'a>(
    weights: &'a [Loaded],
    operation: &'static str,
    weight: Weight,
) -> Result<&'a PackedMatrix, BackendError> {
    match loaded(weights, operation, weight)? {
        Loaded::Matrix(matrix) => Ok(matrix),
        Loaded::Vector(_) => {
            let cause = format!("{weight:?} is a vector, not a matrix");
            Err(BackendError::Args { operation, cause })
        }
        Loaded::Experts(_) => {
            let cause = format!("{weight:?} is a stack of experts, not a matrix");
            Err(BackendError::Args { operation, cause })
        }
    }
}

/// The stack of so many experts behind a handle.
pub(super) fn experts<'a>(
    weights: &'a [Loaded],
    operation: &'static str,
    weight: Weight,
    count: usize,
) -> Result<&'a PackedMatrix, BackendError> {
    match loaded(weights, operation, weight)? {
        Loaded::Experts(matrix) if matrix.problems() == count => Ok(matrix),
        _ => {
            let cause = format!("{weight:?} is no stack of {count} experts");
            Err(BackendError::Args { operation, cause })
        }
    }
}

/// The vector behind a handle.
pub(super) fn vector<'a>(
    weights: &'a [Loaded],
    operation: &'static str,
    weight: Weight,
) -> Result<&'a [f32], BackendError> {
    match loaded(weights, operation, weight)? {
        Loaded::Vector(vector) => Ok(vector),
        Loaded::Matrix(_) | Loaded::Experts(_) => {
            let cause = format!("{weight:?} is a matrix, not a vector");
            Err(BackendError::Args { operation, cause })
        }
    }
}

/// The vector behind a handle that an operation may lack.
pub(super) fn optional<'a>(
    weights: &'a [Loaded],
    operation: &'static str,
    weight: Option<Weight>,
) -> Result<Option<&'a [f32]>, BackendError> {
    weight.map(|weight| vector(weights, operation, weight)).transpose()
}
