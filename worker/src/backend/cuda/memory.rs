//! All device memory but the weights', taken once: activations, workspaces, tables, cache.
//!
//! Cache and activations are not cleared: nothing reads what no step has written.

use binfer_kernels::params::{
    ROPE_PAIRS_MAX, StepOutput, StepResult, StepRow, StepState, StepTables,
};

use super::Half;
use super::fast_attend::FastAttendSizes;
use super::ffi::failed;
use super::ffi::launch::Stream;
use super::ffi::memory::DeviceBuffer;
use super::masks;
use super::sample::{Seen, tiles_per_row};
use super::share::gathered_bytes;
use super::stream_product::SQUARES_BYTES;
use crate::backend::{BackendError, KvLayerPlan, MemoryPlan};
use binfer_kernels::sample_params::SampleTile;

/// Bytes to which everything is aligned.
const ALIGNMENT: usize = 256;

/// Where a layer's cache lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerCache {
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) shape: KvLayerPlan,
}

/// Where a KV group's block tables lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupTables {
    /// `[slot][blocks_per_slot]`.
    pub(super) address: u64,
    /// First entry, counted from the first group's.
    pub(super) first: usize,
    pub(super) blocks_per_slot: usize,
    /// `u32 [slots + 1]`, see `fast_attend.rs`, as the next.
    pub(super) pages: u64,
    /// `PrefillTile [tiles]`.
    pub(super) tiles: u64,
}

/// Memory for steps.
pub(super) struct Memory {
    /// Activations: four bytes an element.
    pub(super) arena: DeviceBuffer,
    /// Workspaces and tables, zeroed once.
    workspace: DeviceBuffer,
    cache: DeviceBuffer,
    pub(super) seen: Seen,
    pub(super) at: Places,
    pub(super) layers: Vec<LayerCache>,
    pub(super) groups: Vec<GroupTables>,
    /// All but activations, in tests that want it so.
    #[cfg(test)]
    apart: Vec<DeviceBuffer>,
}

/// What lies where in the workspace.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    pub(super) tables: StepTables,
    /// Of all groups, one after the other.
    pub(super) block_tables: u64,
    /// `[slots]`.
    pub(super) last_tokens: u64,
    /// T `[tokens or outputs, hidden]`.
    pub(super) normed: u64,
    /// f32 `[parts][tokens]`: sums of squares for the norm that `normed` lacks the factors of, see `stream_product.rs`.
    pub(super) squares: u64,
    /// T `[tokens, 2 wide]`: gate and up on their way to the activation.
    pub(super) sums: u64,
    /// f32 `[tokens, 2 pairs]`.
    pub(super) rope: u64,
    /// `[outputs, tiles]`.
    pub(super) tiles: u64,
    /// `[outputs]`.
    pub(super) drawn: u64,
    /// `[outputs][words]`, see `masks.rs`.
    pub(super) masks: u64,
    /// Pages and tiles of all groups, one group after the other.
    attend_plans: u64,
    /// Pieces of attention, see `fast_attend.rs`.
    pub(super) partials: u64,
    /// Counters, zero between kernels.
    pub(super) arrivals: u64,
    /// Logits of all ranks, see `share.rs`.
    pub(super) gathered: u64,
}

/// Deals out places one after the other; without a base it only counts.
#[derive(Default)]
struct Dealer {
    base: u64,
    used: usize,
}

impl Dealer {
    fn take(&mut self, bytes: usize) -> u64 {
        let at = self.base + self.used as u64;
        self.used = (self.used + bytes).next_multiple_of(ALIGNMENT);
        at
    }
}

/// Lays out the workspace of `plan` in places that `take` gives.
fn lay_out(plan: &MemoryPlan, take: &mut dyn FnMut(usize) -> u64) -> Places {
    let (tokens, outputs) = (plan.tokens_max, plan.outputs_max);
    let sizes = FastAttendSizes::of(plan);
    let tiles = tiles_per_row(plan.vocab) as usize;
    let tables = StepTables {
        state: take(size_of::<StepState>()),
        token_ids: take(4 * tokens),
        positions: take(4 * tokens),
        row_of: take(4 * tokens),
        rows: take(size_of::<StepRow>() * plan.slots_max),
        outputs: take(size_of::<StepOutput>() * outputs),
    };
    Places {
        tables,
        block_tables: take(4 * table_entries(plan)),
        last_tokens: take(4 * plan.slots_max),
        normed: take(Half::BYTES * tokens.max(outputs) * plan.hidden),
        squares: take(SQUARES_BYTES),
        sums: take(Half::BYTES * tokens * 2 * plan.wide),
        rope: take(4 * tokens * 2 * ROPE_PAIRS_MAX),
        tiles: take(size_of::<SampleTile>() * outputs * tiles),
        drawn: take(size_of::<StepResult>() * outputs),
        masks: take(masks::kept_bytes(plan)),
        attend_plans: take(plan.blocks_per_slot.len() * attend_plan_bytes(&sizes)),
        partials: take(sizes.partial_bytes),
        arrivals: take(sizes.arrival_bytes),
        gathered: take(gathered_bytes(plan)),
    }
}

/// Bytes of the pages and tiles of a group.
fn attend_plan_bytes(sizes: &FastAttendSizes) -> usize {
    [sizes.page_bytes, sizes.tile_bytes].map(|bytes| bytes.next_multiple_of(ALIGNMENT)).iter().sum()
}

/// Entries of all block tables.
fn table_entries(plan: &MemoryPlan) -> usize {
    plan.blocks_per_slot.iter().map(|blocks| blocks * plan.slots_max).sum()
}

/// Bytes of one block in all layers.
pub(super) fn kv_block_bytes(plan: &MemoryPlan) -> u64 {
    let one = |kv: &KvLayerPlan| 2 * half_cache_bytes(&KvLayerPlan { blocks: 1, ..*kv }) as u64;
    plan.kv.iter().map(one).sum()
}

/// Bytes of K or of V of a layer.
fn half_cache_bytes(kv: &KvLayerPlan) -> usize {
    let bytes = kv.blocks * kv.kv_heads * kv.block_tokens * kv.head_dim * Half::BYTES;
    bytes.next_multiple_of(ALIGNMENT)
}

/// Kernels count in 32 bits.
fn check_sizes(plan: &MemoryPlan) -> Result<(), BackendError> {
    let widest = [plan.hidden, plan.wide, plan.vocab].into_iter().max().unwrap_or(0);
    let rows = plan.tokens_max.max(plan.slots_max).max(plan.outputs_max);
    let blocks = plan.kv.iter().map(|kv| kv.blocks).max().unwrap_or(0);
    let largest = [2 * widest, rows, blocks, table_entries(plan)].into_iter().max().unwrap_or(0);
    if u32::try_from(largest).is_ok() {
        return Ok(());
    }
    Err(failed("allocate", format!("{plan:?}: something is larger than kernels can count")))
}

/// Bytes of workspaces and tables.
fn workspace_bytes(plan: &MemoryPlan) -> usize {
    let mut dealer = Dealer::default();
    lay_out(plan, &mut |bytes| dealer.take(bytes));
    dealer.used
}

/// Bytes of everything but cache and weights.
pub(super) fn step_bytes(plan: &MemoryPlan) -> usize {
    4 * plan.arena + workspace_bytes(plan) + Seen::bytes_of(plan)
}

/// Lays out the caches of `plan` in places that `take` gives.
fn lay_out_layers(
    plan: &MemoryPlan,
    take: &mut dyn FnMut(usize) -> u64,
) -> Result<Vec<LayerCache>, BackendError> {
    let mut layer = |kv: &KvLayerPlan| {
        if kv.block_tokens == 0 {
            return Err(failed("allocate", format!("{kv:?}: blocks of no tokens")));
        }
        let bytes = half_cache_bytes(kv);
        Ok(LayerCache { keys: take(bytes), values: take(bytes), shape: *kv })
    };
    plan.kv.iter().map(&mut layer).collect()
}

/// Where the tables of all groups lie.
fn groups(plan: &MemoryPlan, at: &Places) -> Vec<GroupTables> {
    let mut first = 0;
    let sizes = FastAttendSizes::of(plan);
    let mut plans = Dealer { base: at.attend_plans, used: 0 };
    let mut group = |blocks: &usize| {
        let address = at.block_tables + 4 * first as u64;
        let (pages, tiles) = (plans.take(sizes.page_bytes), plans.take(sizes.tile_bytes));
        let tables = GroupTables { address, first, blocks_per_slot: *blocks, pages, tiles };
        first += blocks * plan.slots_max;
        tables
    };
    plan.blocks_per_slot.iter().map(&mut group).collect()
}

impl Memory {
    /// Before `allocate`.
    pub(super) fn nothing() -> Result<Self, BackendError> {
        Ok(Self {
            arena: DeviceBuffer::new(0)?,
            workspace: DeviceBuffer::new(0)?,
            cache: DeviceBuffer::new(0)?,
            seen: Seen::new(&MemoryPlan::default())?,
            at: Places::default(),
            layers: Vec::new(),
            groups: Vec::new(),
            #[cfg(test)]
            apart: Vec::new(),
        })
    }

    /// Takes all of it.
    pub(super) fn new(plan: &MemoryPlan, stream: &Stream) -> Result<Self, BackendError> {
        check_sizes(plan)?;
        let workspace = DeviceBuffer::new(workspace_bytes(plan))?;
        workspace.fill(0, stream)?;
        let mut dealer = Dealer { base: workspace.address(), used: 0 };
        let at = lay_out(plan, &mut |bytes| dealer.take(bytes));
        let cache = DeviceBuffer::new(plan.kv.iter().map(|kv| 2 * half_cache_bytes(kv)).sum())?;
        let mut dealer = Dealer { base: cache.address(), used: 0 };
        let layers = lay_out_layers(plan, &mut |bytes| dealer.take(bytes))?;
        let (arena, groups) = (DeviceBuffer::new(4 * plan.arena)?, groups(plan, &at));
        Ok(Self {
            arena,
            workspace,
            cache,
            seen: Seen::new(plan)?,
            at,
            layers,
            groups,
            #[cfg(test)]
            apart: Vec::new(),
        })
    }

    /// The same with an allocation for every buffer, so that a sanitizer sees where each one ends.
    #[cfg(test)]
    pub(super) fn apart(plan: &MemoryPlan, stream: &Stream) -> Result<Self, BackendError> {
        let mut apart = Vec::new();
        let mut take = |bytes, byte| {
            let buffer = DeviceBuffer::new(bytes).expect("memory for a test");
            buffer.fill(byte, stream).expect("a buffer that was just taken");
            let address = buffer.address();
            apart.push(buffer);
            address
        };
        let at = lay_out(plan, &mut |bytes| take(bytes, 0));
        let layers = lay_out_layers(plan, &mut |bytes| take(bytes, 0xff))?;
        let (arena, groups) = (DeviceBuffer::new(4 * plan.arena)?, groups(plan, &at));
        let seen = Seen::new(plan)?;
        Ok(Self { arena, seen, at, layers, groups, apart, ..Self::nothing()? })
    }

    /// Makes activations and cache not a number.
    #[cfg(test)]
    pub(super) fn poison(&self, stream: &Stream) -> Result<(), BackendError> {
        self.arena.fill(0xff, stream)?;
        // That of `apart` was born so.
        if self.apart.is_empty() { self.cache.fill(0xff, stream) } else { Ok(()) }
    }

    /// The ledger: what was taken for what.
    pub(super) fn ledger(&self) -> [(&'static str, usize); 4] {
        [
            ("activations", self.arena.bytes()),
            ("workspace", self.workspace.bytes()),
            ("token counts", self.seen.bytes()),
            ("KV cache", self.cache.bytes()),
        ]
    }
}
