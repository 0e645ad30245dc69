//! cuBLASLt: products of many tokens.
//!
//! One shape of product, `out = x weight^T (+ out)`, row-major, accumulated in single precision. An
//! algorithm is chosen once a shape and kept: one that was measured to be better, where this very
//! library on this very card was measured (`algorithms.rs`), or else what the library recommends.
#![allow(unsafe_code, reason = "part of the door, see mod.rs")]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use cudarc::cublaslt::result;
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtMatmulDescAttributes_t as DescAttribute,
    cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute, cublasStatus_t as Status,
    cudaDataType as DataType,
};

use super::launch::Stream;
use super::{failed, memory::DeviceBuffer};
use crate::backend::BackendError;
use crate::backend::cuda::Half;
use crate::backend::cuda::algorithms::{self, Key};

/// Bytes that an algorithm may use meanwhile.
pub(in crate::backend::cuda) const WORKSPACE_BYTES: usize = 32 << 20;

/// `CUBLAS_OP_T`.
static TRANSPOSED: i32 = 1;

/// What tells one product from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::backend::cuda) struct Shape {
    /// Rows of x and out: at most so many, and not many fewer.
    pub(in crate::backend::cuda) tokens: u32,
    /// Rows of the weight, columns of out.
    pub(in crate::backend::cuda) outputs: u32,
    /// Columns of x.
    pub(in crate::backend::cuda) inputs: u32,
    /// Elements from a row of the weight to the next.
    pub(in crate::backend::cuda) stride: u32,
    /// Elements from a row of out to the next.
    pub(in crate::backend::cuda) out_stride: u32,
    /// `out` is single precision, and the product is added to it.
    pub(in crate::backend::cuda) adds: bool,
    /// `out` is single precision.
    pub(in crate::backend::cuda) single: bool,
}

/// Where its matrices are.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct Operands {
    /// Rows of x and out.
    pub(in crate::backend::cuda) tokens: u32,
    pub(in crate::backend::cuda) x: u64,
    pub(in crate::backend::cuda) weight: u64,
    pub(in crate::backend::cuda) out: u64,
}

/// The library, its workspace, and what it was asked so far.
pub(in crate::backend::cuda) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: DeviceBuffer,
    half: Half,
    /// The card's name.
    card: String,
    plans: BTreeMap<Shape, Plan>,
}

// SAFETY: the library's handles may be used from any thread.
unsafe impl Send for Blas {}

/// A product as the library describes it. Never freed: there are as many as shapes.
struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

const NO_ALGORITHM: sys::cublasLtMatmulAlgo_t = sys::cublasLtMatmulAlgo_t { data: [0; 8] };
const NOTHING_FOUND: sys::cublasLtMatmulHeuristicResult_t = sys::cublasLtMatmulHeuristicResult_t {
    algo: NO_ALGORITHM,
    workspaceSize: 0,
    state: Status::CUBLAS_STATUS_NOT_INITIALIZED,
    wavesCount: 0.0,
    reserved: [0; 4],
};

fn blas_error(error: result::CublasError) -> BackendError {
    failed("cuBLASLt", error.to_string())
}

impl Blas {
    /// Opens the library, out of one of `folders` if it is there.
    pub(in crate::backend::cuda) fn new(
        half: Half,
        card: &str,
        folders: &[std::path::PathBuf],
    ) -> Result<Self, BackendError> {
        super::library::cublas(folders)?;
        let handle = result::create_handle().map_err(blas_error)?;
        let workspace = DeviceBuffer::new(WORKSPACE_BYTES)?;
        Ok(Self { handle, workspace, half, card: card.to_owned(), plans: BTreeMap::new() })
    }

    /// Enqueues a product.
    pub(in crate::backend::cuda) fn product(
        &mut self,
        shape: Shape,
        at: Operands,
        stream: &Stream,
    ) -> Result<(), BackendError> {
        if !self.plans.contains_key(&shape) {
            let plan = self.plan(shape)?;
            self.plans.insert(shape, plan);
        }
        let plan = &self.plans[&shape];
        for layout in [plan.x, plan.out] {
            set_columns(layout, at.tokens)?;
        }
        let (one, beta) = (1.0_f32, if shape.adds { 1.0_f32 } else { 0.0 });
        let pointer = |address: u64| address as *mut c_void;
        // SAFETY: the descriptors are the plan's; the matrices lie where the backend placed them.
        unsafe {
            result::matmul(
                self.handle,
                plan.product,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                pointer(at.weight),
                plan.weight,
                pointer(at.x),
                plan.x,
                pointer(at.out),
                plan.out,
                pointer(at.out),
                plan.out,
                &raw const plan.algorithm,
                pointer(self.workspace.address()),
                WORKSPACE_BYTES,
                stream.raw().cast(),
            )
        }
        .map_err(blas_error)
    }

    /// Algorithms for a product, the one first that the library thinks fastest, and the library's
    /// version: for measurements.
    #[cfg(test)]
    pub(in crate::backend::cuda) fn candidates(
        &self,
        shape: Shape,
    ) -> Result<(usize, Vec<[u64; 8]>), BackendError> {
        let found = self.recommended(&self.plan(shape)?, 16)?;
        // SAFETY: asks for a number.
        let version = unsafe { sys::cublasLtGetVersion() };
        Ok((version, found.into_iter().map(|algorithm| algorithm.data).collect()))
    }

    /// From now on a product runs so: for measurements.
    #[cfg(test)]
    pub(in crate::backend::cuda) fn choose(
        &mut self,
        shape: Shape,
        data: [u64; 8],
    ) -> Result<(), BackendError> {
        let plan = self.plan(shape)?;
        let algorithm = sys::cublasLtMatmulAlgo_t { data };
        self.plans.insert(shape, Plan { algorithm, ..plan });
        Ok(())
    }

    /// Describes a product and chooses an algorithm. The library counts columns first: it sees
    /// `out^T = weight x^T`.
    fn plan(&self, shape: Shape) -> Result<Plan, BackendError> {
        let half = match self.half {
            Half::Bf16 => DataType::CUDA_R_16BF,
            Half::F16 => DataType::CUDA_R_16F,
        };
        let out = if shape.single { DataType::CUDA_R_32F } else { half };
        let layout = |kind, rows: u32, cols: u32, stride: u32| {
            result::create_matrix_layout(kind, rows.into(), cols.into(), stride.into())
                .map_err(blas_error)
        };
        let product = result::create_matmul_desc(Compute::CUBLAS_COMPUTE_32F, DataType::CUDA_R_32F)
            .map_err(blas_error)?;
        let attribute = DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the attribute is a 32-bit number, of which the library copies its size.
        unsafe {
            let value = (&raw const TRANSPOSED).cast();
            result::set_matmul_desc_attribute(product, attribute, value, size_of::<i32>())
        }
        .map_err(blas_error)?;
        let weight = layout(half, shape.inputs, shape.outputs, shape.stride)?;
        let x = layout(half, shape.inputs, shape.tokens, shape.inputs)?;
        let out = layout(out, shape.outputs, shape.tokens, shape.out_stride)?;
        let mut plan = Plan { product, weight, x, out, algorithm: NO_ALGORITHM };
        // SAFETY: asks for a number.
        let version = unsafe { sys::cublasLtGetVersion() };
        let key = Key { version, card: &self.card, half: self.half, shape };
        plan.algorithm = match algorithms::measured(&key).filter(|words| self.takes(&plan, *words))
        {
            Some(data) => sys::cublasLtMatmulAlgo_t { data },
            None => self.recommended(&plan, 1)?.remove(0),
        };
        Ok(plan)
    }

    /// Whether the library runs a product so.
    fn takes(&self, plan: &Plan, data: [u64; 8]) -> bool {
        let algorithm = sys::cublasLtMatmulAlgo_t { data };
        let mut found = NOTHING_FOUND;
        // SAFETY: the plan's descriptors; the library only reads the algorithm.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.handle,
                plan.product,
                plan.weight,
                plan.x,
                plan.out,
                plan.out,
                &raw const algorithm,
                &raw mut found,
            )
        };
        status == Status::CUBLAS_STATUS_SUCCESS && found.workspaceSize <= WORKSPACE_BYTES
    }

    /// Up to `most` algorithms, the one first that the library thinks fastest.
    fn recommended(
        &self,
        plan: &Plan,
        most: usize,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, BackendError> {
        let preference = result::create_matmul_pref().map_err(blas_error)?;
        let limit = WORKSPACE_BYTES as u64;
        let attribute = PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the attribute is a 64-bit number, of which the library copies its size.
        unsafe {
            let value = (&raw const limit).cast();
            result::set_matmul_pref_attribute(preference, attribute, value, size_of::<u64>())
        }
        .map_err(blas_error)?;
        let mut found = vec![NOTHING_FOUND; most];
        let mut count = 0;
        // SAFETY: the plan's descriptors; room for as many results as are asked for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                plan.product,
                plan.weight,
                plan.x,
                plan.out,
                plan.out,
                preference,
                c_int::try_from(most).unwrap_or(c_int::MAX),
                found.as_mut_ptr(),
                &raw mut count,
            )
        };
        // SAFETY: made above, not used again.
        unsafe { result::destroy_matmul_pref(preference) }.map_err(blas_error)?;
        status.result().map_err(blas_error)?;
        found.truncate(usize::try_from(count).unwrap_or(0));
        found.retain(|found| found.state == Status::CUBLAS_STATUS_SUCCESS);
        if found.is_empty() {
            return Err(failed("cuBLASLt", "the library has no algorithm for a product"));
        }
        Ok(found.into_iter().map(|found| found.algo).collect())
    }
}

/// Sets how many columns of a matrix count.
fn set_columns(layout: sys::cublasLtMatrixLayout_t, columns: u32) -> Result<(), BackendError> {
    let columns = u64::from(columns);
    let attribute = sys::cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_COLS;
    // SAFETY: the attribute is a 64-bit number, of which the library copies its size.
    unsafe {
        let value = (&raw const columns).cast();
        result::set_matrix_layout_attribute(layout, attribute, value, size_of::<u64>())
    }
    .map_err(blas_error)
}
