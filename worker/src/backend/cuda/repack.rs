//! Packed weights on the device: from the order of checkpoints to that of kernels
//! (`cuda/repack.cu`).
//!
//! The blocks of some tensors at a time are uploaded as they come, beside the weights, and packed
//! anew into their place, so files stay canonical and a kernel may change its layout.

use binfer_kernels::list::{self, Kernel};
use binfer_kernels::moe_params::RepackParams;
use binfer_shard::LocalTensor;

use super::device::CudaDevice;
use super::ffi::memory::DeviceBuffer;
use super::formats::packed::PackedFormat;
use super::launch::to_u32;
use crate::backend::BackendError;

/// Bytes of blocks that are uploaded together, where a tensor is not longer.
const STAGED_BYTES: usize = 1 << 30;

/// A packed tensor, and where it will lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackedTensor<'t> {
    pub(super) tensor: &'t LocalTensor,
    pub(super) format: PackedFormat,
    /// Columns that are fed.
    pub(super) cols: usize,
    /// Byte of the slab where it begins.
    pub(super) at: usize,
}

impl PackedTensor<'_> {
    /// Bytes of its blocks as they come.
    pub(super) fn staged_bytes(&self) -> usize {
        usize::try_from(self.tensor.bytes()).unwrap_or(usize::MAX)
    }

    fn kernel(&self) -> Kernel<RepackParams> {
        match self.format {
            PackedFormat::Mxfp4 => list::REPACK_MXFP4,
            PackedFormat::Fp8 => list::REPACK_FP8,
        }
    }

    fn params(&self) -> RepackParams {
        let first = self.tensor.parts.first();
        let block_elems = first.map_or(1, |part| part.dtype.block_elems());
        RepackParams {
            row_bytes: first.map_or(0, binfer_shard::LocalPart::row_bytes),
            rows: self.tensor.rows(),
            cols: to_u32(self.cols),
            first_block: first.map_or(0, |part| part.inputs.start / block_elems),
            row_blocks: to_u32(self.cols.div_ceil(self.format.block_cols())),
            ..RepackParams::default()
        }
    }

    fn launch(&self, device: &CudaDevice, params: &RepackParams) -> Result<(), BackendError> {
        let strips = to_u32(PackedFormat::strips(params.rows as usize));
        device.launch(self.kernel(), [strips, params.row_blocks, 1], params)
    }

    /// What the device cannot keep exactly, in words.
    fn refusal(&self, told: u32) -> BackendError {
        let name = &self.tensor.name;
        let what = match self.format {
            PackedFormat::Mxfp4 => {
                let exponent = i64::from(told) - 1 - 127;
                format!(
                    "{name}: a scale of 2^{exponent} of MXFP4, of which 2^-109 to 2^17 are exact"
                )
            }
            PackedFormat::Fp8 => format!("{name}: FP8 weights or scales that are no numbers"),
        };
        BackendError::NoKernel { operation: "load", what }
    }
}

/// Tensors by turns: each turn's blocks fit into what is taken for them.
pub(super) fn turns<'t, 'a>(tensors: &'a [PackedTensor<'t>]) -> Vec<&'a [PackedTensor<'t>]> {
    let mut turns = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (index, tensor) in tensors.iter().enumerate() {
        if index > first && bytes + tensor.staged_bytes() > STAGED_BYTES {
            turns.push(&tensors[first..index]);
            (first, bytes) = (index, 0);
        }
        bytes += tensor.staged_bytes();
    }
    turns.extend((first < tensors.len()).then(|| &tensors[first..]));
    turns
}

/// Packs the tensors of a turn, whose blocks lie one after the other in `staged`, into the slab at
/// address `slab`. All is there when this returns.
pub(super) fn repack(
    device: &CudaDevice,
    tensors: &[PackedTensor<'_>],
    staged: &DeviceBuffer,
    slab: u64,
) -> Result<(), BackendError> {
    let refused = DeviceBuffer::new(size_of::<u32>() * tensors.len())?;
    refused.fill(0, &device.stream)?;
    device.wait_for_all_before_next();
    let mut from = staged.address();
    for (index, tensor) in tensors.iter().enumerate() {
        let (to, refused) = (slab + tensor.at as u64, refused.address() + 4 * index as u64);
        tensor.launch(device, &RepackParams { from, to, refused, ..tensor.params() })?;
        from += tensor.staged_bytes() as u64;
    }
    let mut told = vec![0; refused.bytes()];
    refused.read(0, &mut told, &device.stream)?;
    let told = told.as_chunks().0.iter().map(|told| u32::from_le_bytes(*told));
    match tensors.iter().zip(told).find(|(_, told)| *told != 0) {
        Some((tensor, told)) => Err(tensor.refusal(told)),
        None => Ok(()),
    }
}

/// Makes a packed tensor up, in the slab at address `slab`.
pub(super) fn fill(
    device: &CudaDevice,
    tensor: &PackedTensor<'_>,
    slab: u64,
    seed: u64,
) -> Result<(), BackendError> {
    let to = slab + tensor.at as u64;
    tensor.launch(device, &RepackParams { to, seed, ..tensor.params() })
}

#[cfg(test)]
mod tests {
    use binfer_shard::spec::TensorCut;
    use binfer_shard::{DType, LocalPart};

    use super::*;

    fn tensor(rows: u32) -> LocalTensor {
        let part = LocalPart {
            source: String::new(),
            dtype: DType::MXFP4,
            rows,
            cols: 64 << 10,
            inputs: 0..64 << 10,
            ranges: Vec::new(),
        };
        LocalTensor { name: "experts".into(), cut: TensorCut::Replicated, parts: vec![part] }
    }

    #[test]
    fn turns_keep_within_what_is_staged_and_long_tensors_go_alone() {
        let tensors = [10_000, 10_000, 20_000, 40_000, 5, 5].map(tensor);
        let packed = tensors.each_ref().map(|tensor| PackedTensor {
            tensor,
            format: PackedFormat::Mxfp4,
            cols: 64 << 10,
            at: 0,
        });
        let lens: Vec<_> = turns(&packed).iter().map(|turn| turn.len()).collect();
        assert_eq!(lens, [2, 1, 1, 2]);
        assert!(turns(&[]).is_empty());
    }

    #[test]
    fn a_refusal_names_tensor_and_scale() {
        let tensor = tensor(8);
        let format = PackedFormat::Mxfp4;
        let packed = PackedTensor { tensor: &tensor, format, cols: 64, at: 0 };
        let words = packed.refusal(1 + 200).to_string();
        assert!(words.contains("experts: a scale of 2^73 of MXFP4"), "{words}");
        let fp8 = PackedTensor { format: PackedFormat::Fp8, ..packed };
        assert!(fp8.refusal(1).to_string().contains("experts: FP8"));
    }
}
