//! The `attend_latent` operation: writes what the step adds to the cache, then attends over it.
//!
//! Weights are absorbed in prefill and decode alike: a head's query goes through `k_b` to where
//! latent vectors are, and its mean of latent vectors through `v_b`. So keys and values of heads
//! are never expanded, and no chunk of a prompt shows in the bits.

use super::attend::{AttendScratch, CacheReads, NormHead};
use super::attention::HeadPlace;
use super::block_tables::BlockTables;
use super::cache::{CacheData, CpuLayerCache, KvElement, KvPair};
use super::gemm::{CpuEpilogue, GemmWorkspace, pass_tokens};
use super::latent_attention::{HEADS_MAX, LatentAttention};
use super::matrix::PackedMatrix;
use super::panel::{Panel, PanelNorm, PanelSource};
use super::simd::Level;
use super::threads::Team;
use crate::backend::BackendError;
use crate::backend::args::AttendLatentArgs;
use crate::batch::Batch;

/// Memory of `attend_latent`.
#[derive(Default)]
pub(super) struct LatentScratch {
    /// `[tokens, heads, latent + rope]`.
    queries: Vec<f32>,
    /// `[tokens, heads, latent]`.
    means: Vec<f32>,
    /// What is cached of one token.
    vector: Vec<f32>,
}

impl LatentScratch {
    /// Takes memory for so many heads of tokens, and caches of so many elements a position.
    pub(super) fn reserve(&mut self, heads: usize, width: usize) {
        self.queries.resize(heads * width, 0.0);
        self.means.resize(heads * width, 0.0);
        self.vector.resize(width, 0.0);
    }
}

/// Tokens whose heads are multiplied at once, by matrices that are stacks of heads.
pub(super) fn latent_pass_tokens(stacks: [&PackedMatrix; 2]) -> usize {
    let tokens = |matrix: &PackedMatrix| {
        let room = Panel::rows_max(matrix.groups()) / matrix.problems();
        pass_tokens(matrix).min(room.max(1))
    };
    tokens(stacks[0]).min(tokens(stacks[1]))
}

/// What the operation works on.
pub(super) struct AttendLatent<'a> {
    pub(super) args: &'a AttendLatentArgs,
    pub(super) norm: PanelNorm<'a>,
    /// Stacks of a matrix for each head.
    pub(super) k_b: &'a PackedMatrix,
    pub(super) v_b: &'a PackedMatrix,
    pub(super) batch: &'a Batch,
    pub(super) tables: &'a BlockTables,
    pub(super) team: &'a Team,
    pub(super) level: Level,
}

/// Memory that it works in.
pub(super) struct LatentWork<'a> {
    pub(super) cache: &'a mut CpuLayerCache,
    pub(super) gemm: &'a mut GemmWorkspace,
    pub(super) attend: &'a mut AttendScratch,
    pub(super) scratch: &'a mut LatentScratch,
}

/// Tokens that attend together.
struct Pass<'a> {
    first: usize,
    tokens: usize,
    cache: &'a CpuLayerCache,
    row_of_token: &'a [usize],
}

impl AttendLatent<'_> {
    /// Runs the operation: `queries` and `latent` as the arguments have them, into `out`.
    pub(super) fn run(
        &self,
        mut work: LatentWork<'_>,
        (queries, latent): (&[f32], &[f32]),
        out: &mut [f32],
    ) -> Result<(), BackendError> {
        self.check(work.cache)?;
        work.attend.rope.prepare(self.args.rope, &self.batch.positions);
        self.write_cache(&mut work, latent);
        let pass = latent_pass_tokens([self.k_b, self.v_b]);
        let (query_cols, out_cols) = (self.args.queries.cols, self.args.out.cols);
        let passes = queries.chunks(pass * query_cols).zip(out.chunks_mut(pass * out_cols));
        for (index, (queries, out)) in passes.enumerate() {
            let (first, tokens) = (index * pass, out.len() / out_cols);
            self.absorb(&mut work, first, queries);
            let LatentWork { cache, attend, scratch, .. } = &mut work;
            let pass = Pass { first, tokens, cache, row_of_token: &attend.row_of_token };
            match &cache.data {
                CacheData::F32(pair) => self.attend(&pass, pair, scratch),
                CacheData::BF16(pair) => self.attend(&pass, pair, scratch),
                CacheData::F16(pair) => self.attend(&pass, pair, scratch),
            }
            self.make_values(&mut work, out);
        }
        Ok(())
    }

    /// Refuses a cache of another shape, and tables that do not lead into it.
    fn check(&self, cache: &CpuLayerCache) -> Result<(), BackendError> {
        let args = self.args;
        let refuse = |cause| Err(BackendError::Args { operation: "attend_latent", cause });
        let width = args.latent_dim + args.rope.dims as usize;
        if cache.has_keys || cache.shape.head_dim != width {
            return refuse(format!("vectors of {width} elements in a cache of {:?}", cache.shape));
        }
        if [self.k_b, self.v_b].iter().any(|stack| stack.problems() != args.heads) {
            return refuse(format!("k_b and v_b are no stacks of {} heads", args.heads));
        }
        let (operation, kv_group, window) = ("attend_latent", args.kv_group, None);
        CacheReads { operation, kv_group, window }.check(self.batch, self.tables, cache)
    }

    /// Norms, rotates and keeps the latent vectors of all tokens.
    fn write_cache(&self, work: &mut LatentWork<'_>, latent: &[f32]) {
        let block_tokens = work.cache.shape.block_tokens;
        let vector = &mut work.scratch.vector[..self.args.latent.cols];
        for (token, latent) in latent.chunks_exact(self.args.latent.cols).enumerate() {
            vector.copy_from_slice(latent);
            let (head, key) = vector.split_at_mut(self.args.latent_dim);
            self.level.run(NormHead { norm: self.norm, head });
            work.attend.rope.rotate_in_place(token, key);
            let position = self.batch.positions[token] as usize;
            let slot = self.batch.rows[work.attend.row_of_token[token]].slot;
            let table = self.tables.of(self.args.kv_group, slot);
            let block = table[position / block_tokens].index();
            work.cache.write_latent(block, position % block_tokens, vector);
        }
    }

    /// Takes the queries of a pass, whose first token is `first`, to where latent vectors are.
    fn absorb(&self, work: &mut LatentWork<'_>, first: usize, queries: &[f32]) {
        let AttendLatentArgs { heads, nope, latent_dim, rope, .. } = *self.args;
        let (query_dim, width) = (nope + rope.dims as usize, latent_dim + rope.dims as usize);
        let rows = queries.len() / query_dim;
        let row = |row: usize| &queries[row * query_dim..][..nope];
        let source = PanelSource { tokens: rows, row, norm: None };
        work.gemm.panel.fill(self.team, self.level, self.k_b, source);
        let out = &mut work.scratch.queries[..rows * width];
        self.by_head(work.gemm, self.k_b, out, width);
        let rope = &work.attend.rope;
        let rotated = out.chunks_exact_mut(width).zip(queries.chunks_exact(query_dim));
        for (row, (out, query)) in rotated.enumerate() {
            rope.rotate(first + row / heads, &query[nope..], &mut out[latent_dim..]);
        }
    }

    /// Attention of the queries of a pass, over latent vectors.
    fn attend<E: KvElement>(&self, pass: &Pass<'_>, pair: &KvPair<E>, scratch: &mut LatentScratch) {
        let Pass { first, tokens, cache, row_of_token } = *pass;
        let AttendLatentArgs { heads, latent_dim, scale, kv_group, .. } = *self.args;
        let width = cache.shape.head_dim;
        let LatentScratch { queries, means, .. } = scratch;
        let queries = &queries[..tokens * heads * width];
        let means = &mut means[..tokens * heads * latent_dim];
        let positions = &self.batch.positions[first..first + tokens];
        let seen: usize = positions.iter().map(|position| *position as usize + 1).sum();
        // Heads of a piece share a read of the cache.
        let piece_heads = (1..=HEADS_MAX.min(heads)).rev().find(|n| heads.is_multiple_of(*n));
        let piece_heads = piece_heads.unwrap_or(1);
        let work = seen * heads * (width + latent_dim);
        self.team.pieces(work, means, piece_heads * latent_dim, |piece, out| {
            let token = first + piece * piece_heads / heads;
            let slot = self.batch.rows[row_of_token[token]].slot;
            let table = self.tables.of(kv_group, slot);
            self.level.run(LatentAttention {
                queries: &queries[piece * piece_heads * width..][..piece_heads * width],
                cache: &pair.values,
                place: HeadPlace { shape: cache.shape, table, kv_head: 0 },
                seen: self.batch.positions[token] as usize + 1,
                scale,
                latent_dim,
                out,
            });
        });
    }

    /// Takes the means of a pass to values of heads.
    fn make_values(&self, work: &mut LatentWork<'_>, out: &mut [f32]) {
        let AttendLatentArgs { latent_dim, value_dim, .. } = *self.args;
        let means = &work.scratch.means;
        let row = |row: usize| &means[row * latent_dim..][..latent_dim];
        let source = PanelSource { tokens: out.len() / value_dim, row, norm: None };
        work.gemm.panel.fill(self.team, self.level, self.v_b, source);
        self.by_head(work.gemm, self.v_b, out, value_dim);
    }

    /// Multiplies each head's rows of the panel, `[tokens, heads]`, by its matrix of the stack.
    fn by_head(
        &self,
        gemm: &mut GemmWorkspace,
        stack: &PackedMatrix,
        out: &mut [f32],
        cols: usize,
    ) {
        let (rows, heads) = (out.len() / cols, self.args.heads);
        gemm.rows.begin(rows);
        for head in 0..heads {
            let rows = (head..rows).step_by(heads).map(|row| (row, row));
            gemm.rows.push(stack.problem(head), rows);
        }
        gemm.gemm(stack, None, CpuEpilogue::Store).run(self.team, self.level, out, cols);
    }
}
