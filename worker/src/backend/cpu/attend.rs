//! The `attend` operation: writes the step's keys and values, then attends, token by token.
//!
//! Keys and values of the whole step are in the cache before the first token attends, since a
//! chunk's later tokens see its earlier ones. Queries are normed, where asked, and rotated once,
//! into memory of this file.

use binfer_proto::BlockId;

use super::attention::{GROUP_MAX, HeadPlace, TokenAttention};
use super::block_tables::BlockTables;
use super::cache::{CacheData, CpuLayerCache, KvElement, KvPair};
use super::panel::PanelNorm;
use super::rope::RopeTable;
use super::simd::{Isa, IsaKernel, Level};
use super::threads::Team;
use crate::backend::BackendError;
use crate::backend::args::AttendArgs;
use crate::batch::{Batch, BatchRow};

/// Memory between the steps of `attend`.
#[derive(Default)]
pub(super) struct AttendScratch {
    pub(super) rope: RopeTable,
    queries: Vec<f32>,
    head: Vec<f32>,
    /// Index of each token's row in the batch.
    pub(super) row_of_token: Vec<usize>,
}

/// What `attend` works on.
pub(super) struct Attend<'a> {
    pub(super) args: &'a AttendArgs,
    /// RMSNorm of each query head.
    pub(super) q_norm: Option<PanelNorm<'a>>,
    /// RMSNorm of each key head.
    pub(super) k_norm: Option<PanelNorm<'a>>,
    /// A score without a value for each query head.
    pub(super) sinks: Option<&'a [f32]>,
    pub(super) batch: &'a Batch,
    pub(super) tables: &'a BlockTables,
    pub(super) cache: &'a mut CpuLayerCache,
    /// `[tokens, (heads + 2 kv_heads) * head_dim]`.
    pub(super) qkv: &'a [f32],
    /// `[tokens, heads * head_dim]`.
    pub(super) out: &'a mut [f32],
}

impl AttendScratch {
    /// A new step begins.
    pub(super) fn upload(&mut self, batch: &Batch) {
        self.rope.clear();
        self.row_of_token.clear();
        for (index, row) in batch.rows.iter().enumerate() {
            self.row_of_token.extend(std::iter::repeat_n(index, row.count));
        }
    }

    /// Runs the operation.
    pub(super) fn attend(
        &mut self,
        team: &Team,
        level: Level,
        mut attend: Attend<'_>,
    ) -> Result<(), BackendError> {
        check(&attend)?;
        self.rope.prepare(attend.args.rope, &attend.batch.positions);
        self.write_cache(level, &mut attend);
        self.rotate_queries(team, level, &attend);
        let Attend { args, sinks, batch, tables, cache, out, .. } = attend;
        let read = Read { args, sinks, batch, tables, team, level };
        match &cache.data {
            CacheData::F32(pair) => self.read_cache(&read, cache, pair, out),
            CacheData::BF16(pair) => self.read_cache(&read, cache, pair, out),
            CacheData::F16(pair) => self.read_cache(&read, cache, pair, out),
        }
        Ok(())
    }

    fn write_cache(&mut self, level: Level, attend: &mut Attend<'_>) {
        let Attend { args, batch, tables, cache, qkv, k_norm, .. } = attend;
        let (dim, block_tokens) = (args.head_dim, cache.shape.block_tokens);
        self.head.resize(dim, 0.0);
        for (token, qkv) in qkv.chunks_exact(args.qkv.cols).enumerate() {
            let (keys, values) = qkv[args.heads * dim..].split_at(args.kv_heads * dim);
            let position = batch.positions[token] as usize;
            let table = tables.of(args.kv_group, batch.rows[self.row_of_token[token]].slot);
            let block = table[position / block_tokens].index();
            let heads = keys.chunks_exact(dim).zip(values.chunks_exact(dim));
            for (head, (key, value)) in heads.enumerate() {
                norm_and_rotate(&self.rope, level, *k_norm, token, (key, &mut self.head));
                cache.write(block, head, position % block_tokens, (&self.head, value));
            }
        }
    }

    fn rotate_queries(&mut self, team: &Team, level: Level, attend: &Attend<'_>) {
        let Attend { args, q_norm, qkv, .. } = *attend;
        let (dim, width) = (args.head_dim, args.heads * args.head_dim);
        let floats = args.qkv.rows * width;
        self.queries.resize(floats.max(self.queries.len()), 0.0);
        let rope = &self.rope;
        team.pieces(floats, &mut self.queries[..floats], width, |token, out| {
            let queries = &qkv[token * args.qkv.cols..][..width];
            for heads in queries.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
                norm_and_rotate(rope, level, q_norm, token, heads);
            }
        });
    }

    fn read_cache<E: KvElement>(
        &self,
        read: &Read<'_>,
        cache: &CpuLayerCache,
        pair: &KvPair<E>,
        out: &mut [f32],
    ) {
        let Read { args, sinks, batch, tables, team, level } = *read;
        let heads = args.heads / args.kv_heads;
        let group = heads * args.head_dim;
        let seen: usize = batch.positions.iter().map(|position| *position as usize + 1).sum();
        // Reading one sequence of less than about a thousand positions takes less time than waking
        // another thread for a part of it: measured, hence the twelfth.
        let work = 2 * seen * args.heads * args.head_dim / 12;
        team.pieces(work, out, group, |piece, out| {
            let (token, kv_head) = (piece / args.kv_heads, piece % args.kv_heads);
            let end = batch.positions[token] as usize + 1;
            let table = tables.of(args.kv_group, batch.rows[self.row_of_token[token]].slot);
            level.run(TokenAttention {
                queries: &self.queries[piece * group..][..group],
                cache: pair,
                place: HeadPlace { shape: cache.shape, table, kv_head },
                seen: first_seen(args.window, end)..end,
                sinks: sinks.map(|sinks| &sinks[kv_head * heads..][..heads]),
                out,
            });
        });
    }
}

/// `out = head` as attention wants it: normed, where asked, and rotated to the token's position.
fn norm_and_rotate(
    rope: &RopeTable,
    level: Level,
    norm: Option<PanelNorm<'_>>,
    token: usize,
    (head, out): (&[f32], &mut [f32]),
) {
    let Some(norm) = norm else { return rope.rotate(token, head, out) };
    out.copy_from_slice(head);
    level.run(NormHead { norm, head: &mut *out });
    rope.rotate_in_place(token, out);
}

/// RMSNorm of a head.
pub(super) struct NormHead<'a> {
    pub(super) norm: PanelNorm<'a>,
    pub(super) head: &'a mut [f32],
}

impl IsaKernel for NormHead<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        self.norm.apply::<I>(self.head);
    }
}

/// What reading the cache needs besides the cache.
#[derive(Clone, Copy)]
struct Read<'a> {
    args: &'a AttendArgs,
    sinks: Option<&'a [f32]>,
    batch: &'a Batch,
    tables: &'a BlockTables,
    team: &'a Team,
    level: Level,
}

/// First position that the token before `end` sees.
fn first_seen(window: Option<u32>, end: usize) -> usize {
    window.map_or(0, |window| end.saturating_sub(window as usize))
}

/// Whether tables and cache have what the step will touch.
fn check(attend: &Attend<'_>) -> Result<(), BackendError> {
    let Attend { args, batch, tables, cache, .. } = attend;
    let refuse = |cause: String| Err(BackendError::Args { operation: "attend", cause });
    let shape = cache.shape;
    if (shape.kv_heads, shape.head_dim) != (args.kv_heads, args.head_dim) || !cache.has_keys {
        let (heads, dim) = (args.kv_heads, args.head_dim);
        return refuse(format!("{heads} KV heads of {dim} elements in a cache of {shape:?}"));
    }
    if args.heads / args.kv_heads > GROUP_MAX {
        return refuse(format!("{} query heads share {} KV heads", args.heads, args.kv_heads));
    }
    let reads = CacheReads { operation: "attend", kv_group: args.kv_group, window: args.window };
    reads.check(batch, tables, cache)
}

/// Which positions of a cache an operation reads.
pub(super) struct CacheReads {
    pub(super) operation: &'static str,
    pub(super) kv_group: usize,
    pub(super) window: Option<u32>,
}

impl CacheReads {
    /// Refuses a batch whose tables do not lead to blocks of the cache.
    pub(super) fn check(
        &self,
        batch: &Batch,
        tables: &BlockTables,
        cache: &CpuLayerCache,
    ) -> Result<(), BackendError> {
        let check = |row: &BatchRow| self.check_row(row, tables.of(self.kv_group, row.slot), cache);
        batch.rows.iter().try_for_each(check)
    }

    fn check_row(
        &self,
        row: &BatchRow,
        table: &[BlockId],
        cache: &CpuLayerCache,
    ) -> Result<(), BackendError> {
        let tokens = cache.shape.block_tokens;
        let first = first_seen(self.window, row.start + 1) / tokens;
        let blocks = first..(row.start + row.count).div_ceil(tokens);
        let ids = table.get(blocks.clone());
        if ids.is_none_or(|ids| ids.iter().any(|id| id.index() >= cache.shape.blocks)) {
            let (slot, group, limit) = (row.slot, self.kv_group, cache.shape.blocks);
            let cause = format!(
                "slot {slot}: table of KV group {group} does not lead to blocks {blocks:?} below {limit}"
            );
            return Err(BackendError::Args { operation: self.operation, cause });
        }
        Ok(())
    }
}
