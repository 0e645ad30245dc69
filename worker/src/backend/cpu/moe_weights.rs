//! The weights of a mixture of experts, looked up and checked.

use super::matrix::PackedMatrix;
use super::panel::PanelNorm;
use super::weights::{Loaded, experts, matrix, optional, shape_of, vector};
use crate::backend::args::{MoeArgs, SharedExpertArgs};
use crate::backend::check::{StepShape, WeightShape};
use crate::backend::check_experts::MoeShapes;
use crate::backend::{BackendError, MemoryLayout, Weight};

const OPERATION: &str = "moe";

/// What [`MoeArgs`] names.
pub(super) struct MoeWeights<'a> {
    pub(super) norm: PanelNorm<'a>,
    pub(super) router: &'a PackedMatrix,
    pub(super) router_bias: Option<&'a [f32]>,
    pub(super) correction: Option<&'a [f32]>,
    pub(super) gate_up: &'a PackedMatrix,
    pub(super) gate_up_bias: Option<&'a [f32]>,
    pub(super) down: &'a PackedMatrix,
    pub(super) down_bias: Option<&'a [f32]>,
    pub(super) shared: Option<SharedWeights<'a>>,
}

/// What [`SharedExpertArgs`] names.
pub(super) struct SharedWeights<'a> {
    pub(super) inner: usize,
    pub(super) gate_up: &'a PackedMatrix,
    pub(super) down: &'a PackedMatrix,
    pub(super) gate: Option<&'a [f32]>,
}

impl<'a> MoeWeights<'a> {
    /// Looks weights up, and refuses what breaks the operation's contract.
    pub(super) fn find(
        weights: &'a [Loaded],
        args: &MoeArgs,
        (step, layout): (&StepShape, &MemoryLayout),
    ) -> Result<Self, BackendError> {
        let (router, held) = (&args.router, &args.experts);
        let optional = |weight| optional(weights, OPERATION, weight);
        let found = Self {
            norm: PanelNorm { scale: vector(weights, OPERATION, args.norm)?, eps: args.eps },
            router: matrix(weights, OPERATION, router.weight)?,
            router_bias: optional(router.bias)?,
            correction: optional(router.correction)?,
            gate_up: experts(weights, OPERATION, held.gate_up, held.count)?,
            gate_up_bias: optional(held.gate_up_bias)?,
            down: experts(weights, OPERATION, held.down, held.count)?,
            down_bias: optional(held.down_bias)?,
            shared: args
                .shared
                .as_ref()
                .map(|args| SharedWeights::find(weights, args))
                .transpose()?,
        };
        let shape = |weight: Weight| shape_of(weights, OPERATION, weight);
        let of_vector = |vector: Option<&[f32]>| vector.map(WeightShape::of_vector);
        let shared = args.shared.as_ref().zip(found.shared.as_ref()).map(|(args, found)| {
            Ok::<_, BackendError>((shape(args.gate_up)?, shape(args.down)?, of_vector(found.gate)))
        });
        let shapes = MoeShapes {
            norm: shape(args.norm)?,
            router: (
                shape(router.weight)?,
                of_vector(found.router_bias),
                of_vector(found.correction),
            ),
            gate_up: (shape(held.gate_up)?, of_vector(found.gate_up_bias)),
            down: (shape(held.down)?, of_vector(found.down_bias)),
            shared: shared.transpose()?,
        };
        args.check(step, &shapes)?;
        found.check(args, layout)?;
        Ok(found)
    }

    /// Refuses more than memory was taken for, and inputs that one panel cannot serve.
    fn check(&self, args: &MoeArgs, layout: &MemoryLayout) -> Result<(), BackendError> {
        let (experts, top_k) = (args.router.experts, args.router.routing.top_k as usize);
        let refuse = |cause| Err(BackendError::Args { operation: OPERATION, cause });
        if experts > layout.experts_max
            || top_k > layout.experts_per_token_max
            || args.x.cols != layout.hidden
        {
            let cols = args.x.cols;
            return refuse(format!("{top_k} of {experts} experts of {cols}: no memory was taken"));
        }
        let hidden = 0..args.x.cols;
        if self.fed().any(|matrix| matrix.inputs() != hidden) {
            return refuse("a part of the residual stream is not fed".to_owned());
        }
        let groups = args.router.routing.expert_groups;
        if groups.is_some_and(|of| of.count == 0 || !experts.is_multiple_of(of.count as usize)) {
            return refuse(format!("{groups:?} of {experts} experts"));
        }
        Ok(())
    }

    /// Matrices that are fed the normed residual stream.
    fn fed(&self) -> impl Iterator<Item = &'a PackedMatrix> {
        let shared = self.shared.as_ref().map(|shared| shared.gate_up);
        [self.router, self.gate_up].into_iter().chain(shared)
    }

    /// The one with most groups of inputs: a panel of its inputs serves all.
    pub(super) fn widest(&self) -> &'a PackedMatrix {
        self.fed().max_by_key(|matrix| matrix.groups()).unwrap_or(self.router)
    }
}

impl<'a> SharedWeights<'a> {
    fn find(weights: &'a [Loaded], args: &SharedExpertArgs) -> Result<Self, BackendError> {
        Ok(Self {
            inner: args.inner_rows.cols,
            gate_up: matrix(weights, OPERATION, args.gate_up)?,
            down: matrix(weights, OPERATION, args.down)?,
            gate: optional(weights, OPERATION, args.gate)?,
        })
    }
}
