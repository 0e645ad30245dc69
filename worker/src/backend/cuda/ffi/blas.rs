//! cuBLASLt: gemms of many tokens.
//!
//! One kind of gemm, `out = x weight^T (+ out)`, row-major, accumulated in single precision. An
//! algorithm is chosen once for a shape and kept: the one that was measured to be faster, if
//! whoever opens the library knows one, or else the library's recommendation.
#![allow(unsafe_code, reason = "part of the door, see mod.rs")]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use cudarc::cublaslt::result;
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtMatmulDescAttributes_t as DescAttribute,
    cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute, cublasStatus_t as Status,
    cudaDataType as DataType,
};

use super::error::failed;
use super::launch::CudaStream;
use super::matmul::{AlgorithmKey, MatmulOperands, MatmulShape, Measured};
use super::memory::DeviceBuffer;
use crate::backend::BackendError;
use crate::backend::cuda::formats::half::Half;

/// Bytes that an algorithm may use meanwhile.
pub(in crate::backend::cuda) const WORKSPACE_BYTES: usize = 32 << 20;

/// `CUBLAS_OP_T`.
static TRANSPOSED: i32 = 1;

/// The library, its workspace, and what it was asked so far.
pub(in crate::backend::cuda) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: DeviceBuffer,
    half: Half,
    /// The card's name.
    card: String,
    measured: Measured,
    matmuls: BTreeMap<MatmulShape, Matmul>,
}

// SAFETY: the library's handles may be used from any thread.
unsafe impl Send for Blas {}

/// A gemm as the library describes it. Never freed: there are as many as shapes.
struct Matmul {
    desc: sys::cublasLtMatmulDesc_t,
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
        measured: Measured,
    ) -> Result<Self, BackendError> {
        super::library::cublas(folders)?;
        let handle = result::create_handle().map_err(blas_error)?;
        let workspace = DeviceBuffer::new(WORKSPACE_BYTES)?;
        let (card, matmuls) = (card.to_owned(), BTreeMap::new());
        Ok(Self { handle, workspace, half, card, measured, matmuls })
    }

    /// Enqueues a gemm.
    pub(in crate::backend::cuda) fn matmul(
        &mut self,
        shape: MatmulShape,
        at: MatmulOperands,
        stream: &CudaStream,
    ) -> Result<(), BackendError> {
        if !self.matmuls.contains_key(&shape) {
            let matmul = self.describe(shape)?;
            self.matmuls.insert(shape, matmul);
        }
        let matmul = &self.matmuls[&shape];
        for layout in [matmul.x, matmul.out] {
            set_columns(layout, at.m)?;
        }
        let (one, beta) = (1.0_f32, if shape.accumulates { 1.0_f32 } else { 0.0 });
        let pointer = |address: u64| address as *mut c_void;
        // SAFETY: the descriptors are the gemm's; the matrices lie where the backend placed them.
        unsafe {
            result::matmul(
                self.handle,
                matmul.desc,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                pointer(at.weight),
                matmul.weight,
                pointer(at.x),
                matmul.x,
                pointer(at.out),
                matmul.out,
                pointer(at.out),
                matmul.out,
                &raw const matmul.algorithm,
                pointer(self.workspace.address()),
                WORKSPACE_BYTES,
                stream.raw().cast(),
            )
        }
        .map_err(blas_error)
    }

    /// Algorithms for a gemm, the one first that the library thinks fastest, and the library's
    /// version: for measurements.
    #[cfg(test)]
    pub(in crate::backend::cuda) fn candidates(
        &self,
        shape: MatmulShape,
    ) -> Result<(usize, Vec<[u64; 8]>), BackendError> {
        let found = self.recommended(&self.describe(shape)?, 16)?;
        // SAFETY: asks for a number.
        let version = unsafe { sys::cublasLtGetVersion() };
        Ok((version, found.into_iter().map(|algorithm| algorithm.data).collect()))
    }

    /// From now on a gemm runs so: for measurements.
    #[cfg(test)]
    pub(in crate::backend::cuda) fn choose(
        &mut self,
        shape: MatmulShape,
        data: [u64; 8],
    ) -> Result<(), BackendError> {
        let matmul = self.describe(shape)?;
        let algorithm = sys::cublasLtMatmulAlgo_t { data };
        self.matmuls.insert(shape, Matmul { algorithm, ..matmul });
        Ok(())
    }

    /// Describes a gemm and chooses an algorithm. The library counts columns first: it sees
    /// `out^T = weight x^T`.
    fn describe(&self, shape: MatmulShape) -> Result<Matmul, BackendError> {
        let half = match self.half {
            Half::Bf16 => DataType::CUDA_R_16BF,
            Half::F16 => DataType::CUDA_R_16F,
        };
        let out = if shape.out_f32 { DataType::CUDA_R_32F } else { half };
        let layout = |kind, rows: u32, cols: u32, stride: u32| {
            result::create_matrix_layout(kind, rows.into(), cols.into(), stride.into())
                .map_err(blas_error)
        };
        let desc = result::create_matmul_desc(Compute::CUBLAS_COMPUTE_32F, DataType::CUDA_R_32F)
            .map_err(blas_error)?;
        let attribute = DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the attribute is a 32-bit number, of which the library copies its size.
        unsafe {
            let value = (&raw const TRANSPOSED).cast();
            result::set_matmul_desc_attribute(desc, attribute, value, size_of::<i32>())
        }
        .map_err(blas_error)?;
        let weight = layout(half, shape.k, shape.n, shape.weight_stride)?;
        let x = layout(half, shape.k, shape.m, shape.k)?;
        let out = layout(out, shape.n, shape.m, shape.out_stride)?;
        let mut matmul = Matmul { desc, weight, x, out, algorithm: NO_ALGORITHM };
        // SAFETY: asks for a number.
        let version = unsafe { sys::cublasLtGetVersion() };
        let key = AlgorithmKey { version, card: &self.card, half: self.half, shape };
        let measured = (self.measured)(&key).filter(|words| self.takes(&matmul, *words));
        matmul.algorithm = match measured {
            Some(data) => sys::cublasLtMatmulAlgo_t { data },
            None => self.recommended(&matmul, 1)?.remove(0),
        };
        Ok(matmul)
    }

    /// Whether the library runs a gemm so.
    fn takes(&self, matmul: &Matmul, data: [u64; 8]) -> bool {
        let algorithm = sys::cublasLtMatmulAlgo_t { data };
        let mut found = NOTHING_FOUND;
        // SAFETY: the gemm's descriptors; the library only reads the algorithm.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.handle,
                matmul.desc,
                matmul.weight,
                matmul.x,
                matmul.out,
                matmul.out,
                &raw const algorithm,
                &raw mut found,
            )
        };
        status == Status::CUBLAS_STATUS_SUCCESS && found.workspaceSize <= WORKSPACE_BYTES
    }

    /// Up to `most` algorithms, the one first that the library thinks fastest.
    fn recommended(
        &self,
        matmul: &Matmul,
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
        // SAFETY: the gemm's descriptors; room for as many results as are asked for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                matmul.desc,
                matmul.weight,
                matmul.x,
                matmul.out,
                matmul.out,
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
            return Err(failed("cuBLASLt", "the library has no algorithm for a gemm"));
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
