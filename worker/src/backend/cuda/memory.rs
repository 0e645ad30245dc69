//! All device memory but the weights', taken once: activations, workspaces, tables, cache.
//!
//! Each component lays out its own places; this file takes the buffers behind them. Cache and
//! activations are not cleared: nothing reads what no step has written.

use binfer_kernels::params::{StepOutput, StepRow, StepState, StepTables};

use super::attention::cache::{
    AttentionPlaces, CudaLayerCache, GroupTables, block_table_entries, cache_bytes, lay_out_caches,
};
use super::collectives;
use super::ffi::error::failed;
use super::ffi::launch::CudaStream;
use super::ffi::memory::DeviceBuffer;
use super::gemm::GemmPlaces;
use super::launch::StepPlaces;
use super::moe::MoePlaces;
use super::sampling::SamplingPlaces;
use crate::backend::{BackendError, MemoryLayout};

/// Bytes of which everything begins at a multiple.
const ALIGNMENT: usize = 256;

/// The buffers of steps.
pub(super) struct StepMemory {
    /// Activations: four bytes an element.
    pub(super) arena: DeviceBuffer,
    /// Workspaces and tables, zeroed once.
    workspace: DeviceBuffer,
    cache: DeviceBuffer,
    /// All but activations, in tests that want it so.
    #[cfg(test)]
    apart: Vec<DeviceBuffer>,
}

/// What lies where.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    pub(super) step: StepPlaces,
    pub(super) gemm: GemmPlaces,
    pub(super) sampling: SamplingPlaces,
    pub(super) attention: AttentionPlaces,
    pub(super) moe: MoePlaces,
    /// Logits of all ranks, see `collectives.rs`.
    pub(super) gathered: u64,
}

/// Memory as it was taken: its buffers, what lies where, and attention's caches and tables.
pub(super) struct Taken {
    pub(super) memory: StepMemory,
    pub(super) places: Places,
    pub(super) layers: Vec<CudaLayerCache>,
    pub(super) groups: Vec<GroupTables>,
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

/// Lays out the workspace of `layout` in places that `take` gives for so many bytes.
fn lay_out(layout: &MemoryLayout, take: &mut dyn FnMut(usize) -> u64) -> Places {
    let tokens = layout.tokens_max;
    let tables = StepTables {
        state: take(size_of::<StepState>()),
        token_ids: take(4 * tokens),
        positions: take(4 * tokens),
        row_of: take(4 * tokens),
        rows: take(size_of::<StepRow>() * layout.slots_max),
        outputs: take(size_of::<StepOutput>() * layout.outputs_max),
    };
    Places {
        step: StepPlaces {
            tables,
            block_tables: take(4 * block_table_entries(layout)),
            last_tokens: take(4 * layout.slots_max),
        },
        gemm: GemmPlaces::lay_out(layout, take),
        sampling: SamplingPlaces::lay_out(layout, take),
        attention: AttentionPlaces::lay_out(layout, take),
        moe: MoePlaces::lay_out(layout, take),
        gathered: take(collectives::gathered_bytes(layout)),
    }
}

/// Refuses sizes that kernels, which count in 32 bits, cannot have.
fn check_sizes(layout: &MemoryLayout) -> Result<(), BackendError> {
    let widest = [layout.hidden, layout.intermediate, layout.vocab].into_iter().max().unwrap_or(0);
    let rows = layout.tokens_max.max(layout.slots_max).max(layout.outputs_max);
    let blocks = layout.kv.iter().map(|kv| kv.blocks).max().unwrap_or(0);
    let sizes = [2 * widest, rows, blocks, block_table_entries(layout)];
    if u32::try_from(sizes.into_iter().max().unwrap_or(0)).is_ok() {
        return Ok(());
    }
    Err(failed("allocate", format!("{layout:?}: something is larger than kernels can count")))
}

/// Bytes of activations, workspaces and tables.
pub(super) fn step_bytes(layout: &MemoryLayout) -> usize {
    let mut dealer = Dealer::default();
    lay_out(layout, &mut |bytes| dealer.take(bytes));
    4 * layout.arena + dealer.used
}

impl StepMemory {
    /// No memory, before any was planned.
    pub(super) fn nothing() -> Result<Self, BackendError> {
        Ok(Self {
            arena: DeviceBuffer::new(0)?,
            workspace: DeviceBuffer::new(0)?,
            cache: DeviceBuffer::new(0)?,
            #[cfg(test)]
            apart: Vec::new(),
        })
    }

    /// Takes all memory of steps.
    pub(super) fn take(layout: &MemoryLayout, stream: &CudaStream) -> Result<Taken, BackendError> {
        check_sizes(layout)?;
        let mut dealer = Dealer::default();
        lay_out(layout, &mut |bytes| dealer.take(bytes));
        let workspace = DeviceBuffer::new(dealer.used)?;
        workspace.fill(0, stream)?;
        let mut dealer = Dealer { base: workspace.address(), used: 0 };
        let places = lay_out(layout, &mut |bytes| dealer.take(bytes));
        let cache = DeviceBuffer::new(cache_bytes(layout))?;
        let mut dealer = Dealer { base: cache.address(), used: 0 };
        let layers = lay_out_caches(layout, &mut |bytes| dealer.take(bytes))?;
        let groups = places.attention.groups(layout, places.step.block_tables);
        let memory = Self {
            arena: DeviceBuffer::new(4 * layout.arena)?,
            workspace,
            cache,
            #[cfg(test)]
            apart: Vec::new(),
        };
        Ok(Taken { memory, places, layers, groups })
    }

    /// Takes all of it with an allocation for every buffer, so that a sanitizer sees where each one
    /// ends.
    #[cfg(test)]
    pub(super) fn take_apart(
        layout: &MemoryLayout,
        stream: &CudaStream,
    ) -> Result<Taken, BackendError> {
        let mut apart = Vec::new();
        let mut take = |bytes, byte| {
            let buffer = DeviceBuffer::new(bytes).expect("memory for a test");
            buffer.fill(byte, stream).expect("a buffer that was just taken");
            let address = buffer.address();
            apart.push(buffer);
            address
        };
        let places = lay_out(layout, &mut |bytes| take(bytes, 0));
        let layers = lay_out_caches(layout, &mut |bytes| take(bytes, 0xff))?;
        let groups = places.attention.groups(layout, places.step.block_tables);
        let arena = DeviceBuffer::new(4 * layout.arena)?;
        let memory = Self { arena, apart, ..Self::nothing()? };
        Ok(Taken { memory, places, layers, groups })
    }

    /// Makes activations and cache not a number.
    #[cfg(test)]
    pub(super) fn poison(&self, stream: &CudaStream) -> Result<(), BackendError> {
        self.arena.fill(0xff, stream)?;
        // Those of `take_apart` were born so.
        if self.apart.is_empty() { self.cache.fill(0xff, stream) } else { Ok(()) }
    }

    /// Reads a place of the workspace, after all that the stream was given before.
    #[cfg(test)]
    pub(super) fn read_place(
        &self,
        address: u64,
        bytes: usize,
        stream: &CudaStream,
    ) -> Result<Vec<u8>, BackendError> {
        let has = |buffer: &&DeviceBuffer| {
            (buffer.address()..buffer.address() + buffer.bytes() as u64).contains(&address)
        };
        let buffer = std::iter::once(&self.workspace).chain(&self.apart).find(has);
        let buffer = buffer.ok_or_else(|| failed("read", format!("nothing at {address:#x}")))?;
        let mut to = vec![0; bytes];
        let at = usize::try_from(address - buffer.address());
        buffer.read(at.map_err(|error| failed("read", error.to_string()))?, &mut to, stream)?;
        Ok(to)
    }

    /// What was taken for what, in bytes.
    pub(super) fn lines(&self) -> [(&'static str, usize); 3] {
        [
            ("activations", self.arena.bytes()),
            ("workspace", self.workspace.bytes()),
            ("KV cache", self.cache.bytes()),
        ]
    }
}
