//! Weights of tests: random ones, and what the device makes of them.

use binfer_shard::dequant::dequantize_row;
use binfer_shard::spec::TensorCut;
use binfer_shard::{DType, LocalPart, LocalTensor};

use super::Rig;
use crate::backend::cuda::CudaBackend;
use crate::backend::cuda::formats::WeightFormat;
use crate::backend::cuda::load::Loader;
use crate::backend::{BackendError, Weight};

/// A weight and its rows as the device has them.
pub(super) struct Known {
    pub(super) weight: Weight,
    pub(super) rows: Vec<Vec<f64>>,
}

impl Rig {
    /// Loads a random matrix.
    pub(super) fn weight(&mut self, dtype: DType, rows: usize, cols: usize) -> Known {
        let packed = self.random.packed(dtype, rows, cols);
        let weight = self.load(dtype, (rows, cols), &packed);
        let mut known = Vec::new();
        for packed in packed.chunks(packed.len() / rows) {
            let mut row = vec![0.0; cols];
            dequantize_row(dtype, packed, &mut row).unwrap();
            let is_dense = matches!(WeightFormat::of(dtype, self.half()), WeightFormat::Dense(_));
            let is_exact = rows == 1 || cols == 1 || !is_dense;
            let stored = |x: &f32| f64::from(if is_exact { *x } else { self.rounded(*x) });
            known.push(row.iter().map(stored).collect());
        }
        Known { weight, rows: known }
    }

    /// Loads a matrix.
    pub(super) fn load(
        &mut self,
        dtype: DType,
        (rows, cols): (usize, usize),
        packed: &[u8],
    ) -> Weight {
        let part = LocalPart {
            source: String::new(),
            dtype,
            rows: rows as u32,
            cols: cols as u32,
            inputs: 0..cols as u32,
            ranges: Vec::new(),
        };
        let tensor =
            LocalTensor { name: "test".into(), cut: TensorCut::Replicated, parts: vec![part] };
        load_of(&mut self.backend, &tensor, packed).unwrap()
    }
}

/// Loads a tensor of one part.
pub(super) fn load_of(
    backend: &mut CudaBackend,
    tensor: &LocalTensor,
    packed: &[u8],
) -> Result<Weight, BackendError> {
    let open = |_: &LocalPart| {
        let mut left = packed;
        Ok(move |out: &mut [u8]| {
            let (now, later) = left.split_at(out.len());
            out.copy_from_slice(now);
            left = later;
            Ok(())
        })
    };
    let CudaBackend { weights, device, .. } = backend;
    let loader = Loader { weights, device, threads: 3 };
    Ok(loader.load(std::slice::from_ref(tensor), open, &mut |_| ())?[0])
}
