//! Memory that operations use and leave. It is sized before the first step, for the largest one.

use binfer_shard::spec::KvShape;

use super::attend::AttendScratch;
use super::attend_latent::{LatentScratch, latent_pass_tokens};
use super::gemm::{GemmWorkspace, pass_rows, pass_tokens};
use super::moe::{MoeScratch, expert_pass_tokens, groups_max};
use super::panel::Panel;
use super::simd::LANES;
use super::weights::Loaded;
use crate::backend::{KvLayerLayout, MemoryLayout};

/// Memory that operations use and leave.
#[derive(Default)]
pub(super) struct Workspace {
    pub(super) gemm: GemmWorkspace,
    /// Partial sums on their way to the other ranks.
    pub(super) exchanged: Vec<f32>,
    pub(super) attend_scratch: AttendScratch,
    pub(super) latent: LatentScratch,
    pub(super) moe: MoeScratch,
}

impl Workspace {
    /// Takes what steps of `layout` need with these weights; `several` says whether there are other
    /// ranks.
    pub(super) fn reserve(&mut self, weights: &[Loaded], layout: &MemoryLayout, several: bool) {
        let (mut lanes, mut floats, mut exchanged, mut rows) = (0, 0, 0, 0);
        let mut stacked_rows = 0;
        for weight in weights {
            match weight {
                Loaded::Vector(_) => {}
                Loaded::Matrix(matrix) => {
                    let tokens = pass_tokens(matrix);
                    lanes = lanes.max(tokens * matrix.bands());
                    floats = floats.max(Panel::floats(tokens, matrix.groups()));
                    rows = rows.max(tokens);
                    if several {
                        exchanged = exchanged.max(tokens * matrix.rows());
                    }
                    if matrix.is_stack() {
                        let all = latent_pass_tokens([matrix; 2]) * matrix.problems();
                        floats = floats.max(Panel::floats(all, matrix.groups()));
                        stacked_rows = stacked_rows.max(all);
                    }
                }
                Loaded::Experts(matrix) => {
                    let pass = pass_rows(matrix);
                    lanes = lanes.max(pass * matrix.problem_bands());
                    floats = floats.max(Panel::floats(pass, matrix.groups()));
                    rows = rows.max(pass);
                }
            }
        }
        let width = |kv: &KvLayerLayout| match kv.shape {
            KvShape::Latent { width } => width as usize,
            KvShape::Heads { .. } => 0,
        };
        self.latent.reserve(stacked_rows, layout.kv.iter().map(width).max().unwrap_or(0));
        if layout.experts_max > 0 {
            let tokens = expert_pass_tokens(layout.hidden);
            floats = floats.max(Panel::floats(tokens, groups_max(layout.hidden)));
            exchanged = exchanged.max(tokens * layout.hidden);
            self.moe.reserve(tokens, layout);
        }
        self.gemm.rows.reserve(rows.max(stacked_rows));
        self.gemm.scratch.resize(lanes, [0.0; LANES]);
        self.gemm.panel.reserve(floats);
        self.exchanged.resize(exchanged, 0.0);
    }
}
