//! A mixture of experts as it is asked for: contracts checked, handles and tensors looked up.

use binfer_kernels::gemm::Epilogue;
use binfer_kernels::moe_params::{EXPERTS_MAX, TOP_K_MAX};
use binfer_shard::spec::{ActivationFn, Routing};

use crate::backend::BackendError;
use crate::backend::args::{MoeArgs, SharedExpertArgs};
use crate::backend::check_experts::MoeShapes;
use crate::backend::cuda::formats::half::Half;
use crate::backend::cuda::gemm::desc::{GemmCall, NormCall};
use crate::backend::cuda::launch::to_u32;
use crate::backend::cuda::operands::Operands;
use crate::backend::cuda::weights::{DeviceMatrix, DeviceVector};

const OPERATION: &str = "moe";
/// Groups of experts, one a lane of a warp.
const EXPERT_GROUPS_MAX: u32 = 32;

/// A mixture of experts and where its operands lie.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct MoeCall {
    /// The type of what is multiplied.
    pub(super) half: Half,
    pub(super) norm: NormCall,
    /// Its result is the logits.
    pub(super) router: GemmCall,
    pub(super) router_bias: Option<DeviceVector>,
    pub(super) correction: Option<DeviceVector>,
    pub(super) routing: Routing,
    pub(super) experts: ExpertsCall,
    pub(super) shared: Option<SharedCall>,
    /// f32 `[tokens, hidden]`; 0 on all ranks but the first, so that it counts once.
    pub(super) residual: u64,
    /// f32 `[tokens, hidden]`.
    pub(in crate::backend::cuda) out: u64,
    /// The norm of `out`, and the gemm behind it, if they follow.
    pub(in crate::backend::cuda) next: Option<(NormCall, GemmCall)>,
}

/// The experts of this rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpertsCall {
    /// Number of the first one.
    pub(super) first: u32,
    pub(super) count: u32,
    /// Experts of all ranks.
    pub(super) of: u32,
    pub(super) act: ActivationFn,
    pub(super) gate_up: DeviceMatrix,
    pub(super) gate_up_bias: Option<DeviceVector>,
    pub(super) down: DeviceMatrix,
    pub(super) down_bias: Option<DeviceVector>,
    /// T `[slots, inner]`.
    pub(super) inner_rows: u64,
    /// T `[slots, hidden]`.
    pub(super) out_rows: u64,
}

impl ExpertsCall {
    /// Alpha, limit and what is added to up; see `MoeGemmParams` in `cuda/moe_params.h`.
    pub(super) fn activation(&self) -> (f32, f32, f32) {
        match self.act {
            ActivationFn::Silu => (1.0, f32::INFINITY, 0.0),
            ActivationFn::ClampedSwiglu { limit } => (ActivationFn::SWIGLU_ALPHA, limit, 1.0),
        }
    }
}

/// The shared expert.
#[derive(Clone, Copy, Debug)]
pub(super) struct SharedCall {
    pub(super) gate_up: GemmCall,
    pub(super) gate: Option<DeviceVector>,
    /// Adds to the sum of the other experts.
    pub(super) down: GemmCall,
}

impl Operands<'_> {
    /// The call whose logits go to `logits`. The residual is in the first rank's part of the sum.
    pub(in crate::backend::cuda) fn moe(
        &self,
        args: &MoeArgs,
        is_first_rank: bool,
        logits: u64,
    ) -> Result<MoeCall, BackendError> {
        refuse_unknown(args)?;
        let optional = |weight| self.weights.optional(OPERATION, weight);
        let (experts, router) = (&args.experts, &args.router);
        let router_weight = self.weights.matrix(OPERATION, router.weight)?;
        let scale = self.weights.vector(OPERATION, args.norm)?;
        let out = self.sum(OPERATION, &args.out)?;
        let call = MoeCall {
            half: self.on.device.half,
            norm: NormCall { x: self.sum(OPERATION, &args.x)?, scale, eps: args.eps },
            router: GemmCall {
                x: self.normed,
                m: self.on.shape.tokens,
                m_max: to_u32(self.layout.tokens_max),
                weight: router_weight,
                bias: None,
                epilogue: Epilogue::StoreF32,
                out: logits,
                out_stride: to_u32(router.experts),
            },
            router_bias: optional(router.bias)?,
            correction: optional(router.correction)?,
            routing: router.routing,
            experts: ExpertsCall {
                first: to_u32(experts.first),
                count: to_u32(experts.count),
                of: to_u32(router.experts),
                act: experts.act,
                gate_up: self.weights.matrix(OPERATION, experts.gate_up)?,
                gate_up_bias: optional(experts.gate_up_bias)?,
                down: self.weights.matrix(OPERATION, experts.down)?,
                down_bias: optional(experts.down_bias)?,
                inner_rows: self.slots(OPERATION, &experts.inner_rows, router.routing.top_k)?,
                out_rows: self.slots(OPERATION, &experts.out_rows, router.routing.top_k)?,
            },
            shared: args.shared.as_ref().map(|shared| self.shared(shared, out)).transpose()?,
            residual: if is_first_rank { self.sum(OPERATION, &args.x)? } else { 0 },
            out,
            next: None,
        };
        args.check(&self.step_shape(), &call.shapes())?;
        Ok(call)
    }

    fn shared(&self, args: &SharedExpertArgs, out: u64) -> Result<SharedCall, BackendError> {
        let inner = self.inner(OPERATION, &args.inner_rows)?;
        let gate_up = self.weights.matrix(OPERATION, args.gate_up)?;
        let down = self.weights.matrix(OPERATION, args.down)?;
        let gemm = GemmCall {
            x: self.normed,
            m: self.on.shape.tokens,
            m_max: to_u32(self.layout.tokens_max),
            weight: gate_up,
            bias: None,
            epilogue: Epilogue::Glu,
            out: inner,
            out_stride: to_u32(args.inner_rows.cols),
        };
        Ok(SharedCall {
            gate_up: gemm,
            gate: self.weights.optional(OPERATION, args.gate)?,
            down: GemmCall {
                x: inner,
                weight: down,
                epilogue: Epilogue::AddF32,
                out,
                out_stride: to_u32(down.rows),
                ..gemm
            },
        })
    }
}

impl MoeCall {
    fn shapes(&self) -> MoeShapes {
        let shape = |vector: Option<DeviceVector>| vector.map(|vector| vector.shape());
        let experts = &self.experts;
        let shared = |shared: SharedCall| {
            (shared.gate_up.weight.shape(), shared.down.weight.shape(), shape(shared.gate))
        };
        MoeShapes {
            norm: self.norm.scale.shape(),
            router: (self.router.weight.shape(), shape(self.router_bias), shape(self.correction)),
            gate_up: (experts.gate_up.shape(), shape(experts.gate_up_bias)),
            down: (experts.down.shape(), shape(experts.down_bias)),
            shared: self.shared.map(shared),
        }
    }
}

/// Refuses what kernels have no room for.
fn refuse_unknown(args: &MoeArgs) -> Result<(), BackendError> {
    let (experts, routing) = (to_u32(args.router.experts), &args.router.routing);
    let no_kernel = |what| Err(BackendError::NoKernel { operation: OPERATION, what });
    if experts > EXPERTS_MAX || routing.top_k > TOP_K_MAX {
        return no_kernel(format!("{} of {experts} experts", routing.top_k));
    }
    if let Some(groups) = routing.expert_groups
        && (groups.count == 0
            || groups.count > EXPERT_GROUPS_MAX
            || !experts.is_multiple_of(groups.count))
    {
        return no_kernel(format!("{experts} experts in {} groups", groups.count));
    }
    Ok(())
}
