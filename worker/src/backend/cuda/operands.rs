//! From an operation's arguments to addresses: contracts checked, handles and tensors looked up.

use binfer_kernels::gemm::Epilogue;
use binfer_kernels::params::EmbedParams;
use binfer_shard::spec::ActivationFn;

use super::attention::latent::LatentCall;
use super::collectives::LogitsPlace;
use super::ffi::memory::DeviceBuffer;
use super::formats::WeightFormat;
use super::gemm::desc::{GemmCall, NormCall};
use super::launch::{Launcher, to_u32};
use super::weights::{DeviceVector, Weights};
use crate::backend::args::{
    AttendArgs, AttendLatentArgs, EmbedArgs, HeadArgs, LinearOutArgs, NormLinearArgs, SampleArgs,
    Tensor, TensorKind,
};
use crate::backend::check::StepShape;
use crate::backend::{BackendError, MemoryLayout};
use crate::batch::{Batch, BatchRow};

/// What arguments are looked up in.
pub(super) struct Operands<'a> {
    pub(super) on: Launcher<'a>,
    pub(super) weights: &'a Weights,
    pub(super) arena: &'a DeviceBuffer,
    pub(super) layout: &'a MemoryLayout,
    pub(super) batch: &'a Batch,
    /// Where rows behind a norm lie.
    pub(super) normed: u64,
}

impl Operands<'_> {
    pub(super) fn step_shape(&self) -> StepShape {
        StepShape {
            arena: self.arena.bytes() / 4,
            tokens: self.batch.tokens.len(),
            outputs: self.batch.outputs.len(),
            vocab: self.layout.vocab,
        }
    }

    /// Address of a tensor of that kind, which has room for so many rows.
    fn address(
        &self,
        operation: &'static str,
        tensor: &Tensor,
        kind: TensorKind,
        rows: usize,
    ) -> Result<u64, BackendError> {
        let room = self.arena.bytes() / 4;
        let fits = rows.checked_mul(tensor.cols).and_then(|len| len.checked_add(tensor.offset));
        if tensor.kind != kind || fits.is_none_or(|end| end > room) {
            let cause = format!("{tensor:?} where {kind:?} is wanted, in an arena of {room}");
            return Err(BackendError::Args { operation, cause });
        }
        Ok(self.arena.address() + 4 * tensor.offset as u64)
    }

    /// Address of a tensor in the backend's own type.
    pub(super) fn inner(
        &self,
        operation: &'static str,
        tensor: &Tensor,
    ) -> Result<u64, BackendError> {
        // Launches of a decode step cover more rows than the tensor has: the bucket's.
        let rows = self.on.shape.covered_rows(tensor.rows);
        self.address(operation, tensor, TensorKind::Inner, rows)
    }

    /// Address of a tensor in the backend's own type with `each` rows for every token.
    pub(super) fn slots(
        &self,
        operation: &'static str,
        tensor: &Tensor,
        each: u32,
    ) -> Result<u64, BackendError> {
        let each = each.max(1) as usize;
        let rows = self.on.shape.covered_rows(tensor.rows / each) * each;
        self.address(operation, tensor, TensorKind::Inner, rows)
    }

    /// Address of a tensor of sums.
    pub(super) fn sum(
        &self,
        operation: &'static str,
        tensor: &Tensor,
    ) -> Result<u64, BackendError> {
        let rows = self.on.shape.covered_rows(tensor.rows);
        self.address(operation, tensor, TensorKind::Sum, rows)
    }

    pub(super) fn embed(&self, args: &EmbedArgs) -> Result<EmbedParams, BackendError> {
        let table = self.weights.dense("embed", args.table)?;
        args.check(&self.step_shape(), table.shape())?;
        Ok(EmbedParams {
            step: self.on.places.tables,
            table: table.address,
            out: self.sum("embed", &args.out)?,
            cols: to_u32(table.cols),
            stride: to_u32(table.stride),
            first_token: to_u32(args.first_token),
            table_rows: to_u32(table.rows),
        })
    }

    pub(super) fn norm_linear(
        &self,
        args: &NormLinearArgs,
    ) -> Result<(NormCall, GemmCall), BackendError> {
        let operation = "norm_linear";
        let weight = self.weights.matrix(operation, args.weight)?;
        let scale = self.weights.vector(operation, args.norm)?;
        let bias = self.weights.optional(operation, args.bias)?;
        let added = bias.map(|bias| bias.shape());
        args.check(&self.step_shape(), scale.shape(), weight.shape(), added)?;
        let gemm = GemmCall {
            x: self.normed,
            m: self.on.shape.tokens,
            m_max: to_u32(self.layout.tokens_max),
            weight,
            bias,
            epilogue: epilogue(operation, args)?,
            out: match args.out.kind {
                TensorKind::Inner => self.inner(operation, &args.out)?,
                TensorKind::Sum => self.sum(operation, &args.out)?,
            },
            out_stride: to_u32(args.out.cols),
        };
        Ok((NormCall { x: self.sum(operation, &args.x)?, scale, eps: args.eps }, gemm))
    }

    /// Addresses of projections and output; norms of query and key heads, sinks.
    pub(super) fn attend(
        &self,
        args: &AttendArgs,
    ) -> Result<(u64, u64, [Option<DeviceVector>; 3]), BackendError> {
        let optional = |weight| self.weights.optional("attend", weight);
        let vectors = [optional(args.q_norm)?, optional(args.k_norm)?, optional(args.sinks)?];
        args.check(&self.step_shape(), vectors.map(|vector| vector.map(|vector| vector.shape())))?;
        Ok((self.inner("attend", &args.qkv)?, self.inner("attend", &args.out)?, vectors))
    }

    pub(super) fn attend_latent<'b>(
        &self,
        args: &'b AttendLatentArgs,
        rows: &'b [BatchRow],
    ) -> Result<LatentCall<'b>, BackendError> {
        let operation = "attend_latent";
        let latent_norm = self.weights.vector(operation, args.latent_norm)?;
        let k_b = self.weights.matrix(operation, args.k_b)?;
        let v_b = self.weights.matrix(operation, args.v_b)?;
        args.check(&self.step_shape(), [latent_norm.shape(), k_b.shape(), v_b.shape()])?;
        for (name, weight) in [("k_b", k_b), ("v_b", v_b)] {
            if !matches!(weight.format, WeightFormat::Dense(_)) {
                let what = format!("{name} in {:?}", weight.format);
                return Err(BackendError::NoKernel { operation, what });
            }
        }
        Ok(LatentCall {
            args,
            latent_norm,
            k_b,
            v_b,
            queries: self.inner(operation, &args.queries)?,
            latent: self.inner(operation, &args.latent)?,
            out: self.inner(operation, &args.out)?,
            rows,
        })
    }

    /// The residual is in the first rank's part of the sum, and so is the bias: both count once.
    pub(super) fn linear_out(
        &self,
        args: &LinearOutArgs,
        is_first_rank: bool,
    ) -> Result<GemmCall, BackendError> {
        let operation = "linear_out";
        let weight = self.weights.matrix(operation, args.weight)?;
        let bias = self.weights.optional(operation, args.bias)?;
        args.check(&self.step_shape(), weight.shape(), bias.map(|bias| bias.shape()))?;
        Ok(GemmCall {
            x: self.inner(operation, &args.x)?,
            m: self.on.shape.tokens,
            m_max: to_u32(self.layout.tokens_max),
            weight,
            bias: bias.filter(|_| is_first_rank),
            epilogue: if is_first_rank { Epilogue::AddF32 } else { Epilogue::StoreF32 },
            out: self.sum(operation, &args.out)?,
            out_stride: to_u32(args.out.cols),
        })
    }

    /// The head's norm and gemm, whose logits go to `place` of those at the address that is
    /// returned.
    pub(super) fn head(
        &self,
        args: &HeadArgs,
        place: impl FnOnce(u64) -> LogitsPlace,
    ) -> Result<(NormCall, GemmCall, u64), BackendError> {
        let operation = "head";
        let weight = self.weights.matrix(operation, args.weight)?;
        let scale = self.weights.vector(operation, args.norm)?;
        args.check(&self.step_shape(), scale.shape(), weight.shape())?;
        let norm = NormCall { x: self.sum(operation, &args.x)?, scale, eps: args.eps };
        let logits = self.sum(operation, &args.logits)?;
        let LogitsPlace { address, stride } = place(logits);
        let gemm = GemmCall {
            x: self.normed,
            m: self.on.shape.outputs,
            m_max: to_u32(self.layout.outputs_max),
            weight,
            bias: None,
            epilogue: Epilogue::StoreF32,
            out: address,
            out_stride: stride,
        };
        Ok((norm, gemm, logits))
    }

    /// Address of the logits.
    pub(super) fn sample(&self, args: &SampleArgs) -> Result<u64, BackendError> {
        args.check(&self.step_shape())?;
        self.sum("sample", &args.logits)
    }
}

/// The epilogue of a gemm behind a norm.
fn epilogue(operation: &'static str, args: &NormLinearArgs) -> Result<Epilogue, BackendError> {
    match (args.glu, args.out.kind) {
        (None, TensorKind::Inner) => Ok(Epilogue::Store),
        (None, TensorKind::Sum) => Ok(Epilogue::StoreF32),
        (Some(ActivationFn::Silu), TensorKind::Inner) => Ok(Epilogue::Glu),
        (Some(act), kind) => {
            let what = format!("{act:?} to {kind:?} of a feed-forward that is no mixture");
            Err(BackendError::NoKernel { operation, what })
        }
    }
}
