//! Mixtures of experts, without a word from the host between routing and gemms.
//!
//! | file | is |
//! |---|---|
//! | `call.rs` | an operation as it is asked for: operands |
//! | `places.rs` | where routing keeps what it finds |
//! | `experts.rs` | the grouped gemms of the experts: which kernels |
//! | `experts_sm90.rs` | those of Hopper |
//!
//! One operation is: norm, the router's gemm, `moe_route`, `moe_sort`, the experts' two grouped
//! gemms (on Hopper behind `moe_gather`), `moe_combine`, and two gemms of a shared expert. Grids
//! follow from upper bounds (`binfer_kernels::moe`), so CUDA graphs fit every routing.

mod call;
mod experts;
mod experts_sm90;
mod places;

use binfer_kernels::list;
use binfer_kernels::moe::{MoeSchedule, MoeShape};
use binfer_kernels::moe_params::{
    MoeCombineParams, MoeRouteParams, MoeSortParams, SharedGateParams,
};
use binfer_shard::spec::{GroupScore, RouterScores};

pub(super) use call::MoeCall;
use call::SharedCall;
pub(super) use experts::ExpertsConfig;
use experts::experts_config;
pub(super) use places::MoePlaces;

use super::gemm::Gemms;
use super::launch::{Launcher, to_u32};
use super::weights::DeviceVector;
use crate::backend::BackendError;

/// Launches mixtures of experts.
#[derive(Default)]
pub(super) struct Moe {
    pub(super) places: MoePlaces,
}

/// Address of a vector; 0 where there is none.
fn address(vector: Option<DeviceVector>) -> u64 {
    vector.map_or(0, |vector| vector.address)
}

impl Moe {
    /// Enqueues a mixture of experts, all but the sum over ranks; says which kernels multiplied.
    pub(super) fn launch(
        &self,
        on: &Launcher<'_>,
        gemms: &mut Gemms,
        call: &MoeCall,
    ) -> Result<ExpertsConfig, BackendError> {
        let shape = MoeShape {
            tokens: on.shape.tokens,
            top_k: call.routing.top_k,
            local_experts: call.experts.count,
        };
        let config = experts_config(call, shape.tokens, &on.device.chip());
        let schedule = shape.schedule(config.tile_tokens());
        gemms.norm(on, &call.norm)?;
        gemms.gemm(on, &call.router, None)?;
        self.route(on, call, &schedule)?;
        self.sort(on, call, &shape, &schedule)?;
        experts::launch(on, call, &self.places, (&config, schedule.tiles_max))?;
        self.combine(on, call)?;
        if let Some(shared) = &call.shared {
            launch_shared(on, gemms, call, shared)?;
        }
        Ok(config)
    }

    fn route(
        &self,
        on: &Launcher<'_>,
        call: &MoeCall,
        schedule: &MoeSchedule,
    ) -> Result<(), BackendError> {
        let routing = &call.routing;
        let groups = routing.expert_groups;
        let params = MoeRouteParams {
            state: on.places.tables.state,
            logits: self.places.logits,
            bias: address(call.router_bias),
            correction: address(call.correction),
            experts_of: self.places.experts_of,
            weights: self.places.weights,
            counts: self.places.counts,
            tokens: on.shape.tokens,
            experts: call.experts.of,
            top_k: routing.top_k,
            chunk_tokens: schedule.chunk_tokens,
            scores: match routing.scores {
                RouterScores::Softmax => 0,
                RouterScores::Sigmoid => 1,
            },
            normalize: routing.normalize.into(),
            scale: routing.scale,
            expert_groups: groups.map_or(0, |groups| groups.count),
            groups_kept: groups.map_or(0, |groups| groups.kept),
            group_score: match groups.map(|groups| groups.score) {
                None | Some(GroupScore::Max) => 0,
                Some(GroupScore::TopTwoSum) => 1,
            },
        };
        on.device.launch(list::MOE_ROUTE, [schedule.chunks, 1, 1], &params)
    }

    fn sort(
        &self,
        on: &Launcher<'_>,
        call: &MoeCall,
        shape: &MoeShape,
        schedule: &MoeSchedule,
    ) -> Result<(), BackendError> {
        let params = MoeSortParams {
            experts_of: self.places.experts_of,
            counts: self.places.counts,
            positions: self.places.positions,
            slots_at: self.places.slots_at,
            tiles: self.places.tiles,
            slots: shape.slots(),
            experts: call.experts.of,
            chunks: schedule.chunks,
            chunk_slots: schedule.chunk_tokens * shape.top_k,
            first_expert: call.experts.first,
            local_experts: call.experts.count,
            tile_tokens: schedule.tile_tokens,
            tiles_max: schedule.tiles_max,
        };
        on.device.launch(list::MOE_SORT, [schedule.chunks, 1, 1], &params)
    }

    fn combine(&self, on: &Launcher<'_>, call: &MoeCall) -> Result<(), BackendError> {
        let params = MoeCombineParams {
            residual: call.residual,
            expert_out: call.experts.out_rows,
            positions: self.places.positions,
            weights: self.places.weights,
            out: call.out,
            hidden: to_u32(call.norm.scale.len),
            top_k: call.routing.top_k,
        };
        on.device.launch(list::MOE_COMBINE, [on.shape.tokens, 1, 1], &params)
    }
}

/// Enqueues the shared expert, which adds to what the others made.
fn launch_shared(
    on: &Launcher<'_>,
    gemms: &mut Gemms,
    call: &MoeCall,
    shared: &SharedCall,
) -> Result<(), BackendError> {
    gemms.gemm(on, &shared.gate_up, None)?;
    if let Some(gate) = shared.gate {
        let params = SharedGateParams {
            x: shared.gate_up.x,
            gate: gate.address,
            inner: shared.gate_up.out,
            hidden: to_u32(gate.len),
            inner_cols: shared.gate_up.out_stride,
        };
        on.device.launch(list::MOE_SHARED_GATE, [on.shape.tokens, 1, 1], &params)?;
    }
    gemms.gemm(on, &shared.down, call.next)?;
    Ok(())
}
