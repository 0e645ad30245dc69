//! The handshake of a rank, from `Welcome` to its engine: load, meet the other ranks, allocate.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use binfer_proto::cluster::{
    Allocate, Comm, CommId, Load, Loaded, Progress as LoadProgress, Welcome, down, up,
};
use binfer_proto::{Epoch, PlanLimits, Rank, ReplicaId};
use binfer_shard::fit::{KvBudget, KvDemand};
use binfer_shard::layout::weight_bytes;
use binfer_shard::{Checkpoint, RankLayout, fit, layouts};

use crate::backend::timed::{StepTimes, TimedBackend};
use crate::backend::{RankDevice, ReadyDevice};
use crate::devices;
use crate::engine::{Engine, EngineParts, RankIdentity};
use crate::memory::{self, Activations, StepLimits};
use crate::model::{self, Model};
use crate::port::EnginePort;
use crate::slots::SlotTable;

/// How often a loading rank reports its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// Shakes hands; `None` where the link closed meanwhile.
///
/// A failure is told while what failed still lives: to end a communicator, or to free memory behind
/// kernels that hang, takes longer than peers wait.
pub fn run(port: &EnginePort) -> Result<Option<Engine>> {
    let Some(mut rank) = port.told(load(port))? else { return Ok(None) };
    let Some(blocks) = port.told(rank.meet(port))? else { return Ok(None) };
    Ok(Some(rank.into_engine(port, blocks)))
}

/// What a rank knows between loading and allocation.
struct LoadedRank {
    welcome: Welcome,
    load: Load,
    source: Checkpoint,
    layout: RankLayout,
    device: Box<dyn RankDevice>,
    /// Measures steps; `None` unless somebody asked for it.
    times: Option<StepTimes>,
    model: Model,
}

impl LoadedRank {
    fn limits(&self) -> StepLimits {
        StepLimits {
            slots_max: self.load.slots_max,
            tokens_per_step_max: self.load.tokens_per_step_max,
            context_max: self.load.context_max,
        }
    }

    /// Blocks per KV group that this rank has room for.
    fn blocks_max(&mut self) -> Result<Vec<u32>> {
        let (spec, load, limits) = (self.source.spec(), &self.load, self.limits());
        let none = vec![0; spec.kv_groups.len()];
        let without_kv = memory::lay_out(spec, &self.layout, limits, &none)?;
        let element_bytes = devices::kv_element_bytes(load)?;
        let layout = &self.layout;
        let fits = self.device.kv_bytes_max(&without_kv)?;
        let bytes_max = match (KvBudget::from(load.kv_bytes), fits) {
            // More than fits is for the coordinator to refuse.
            (KvBudget::Bytes(asked), Some(fits)) => asked.min(fits),
            (KvBudget::Bytes(asked), None) => asked,
            (KvBudget::WhatFits, Some(fits)) => fits,
            (KvBudget::WhatFits, None) => {
                bail!(
                    "the coordinator must say how large the KV cache is: only a GPU knows what fits"
                )
            }
        };
        let demand = KvDemand {
            positions_max: u64::from(load.slots_max) * u64::from(load.context_max),
            sequences_max: load.slots_max,
            tokens_per_step_max: load.tokens_per_step_max,
        };
        Ok(fit::blocks_within(spec, layout, element_bytes, demand, bytes_max))
    }

    /// Joins the other ranks and takes all memory. Returns the blocks per KV group on which all
    /// ranks agreed; `None` where the link closed.
    fn meet(&mut self, port: &EnginePort) -> Result<Option<Vec<u32>>> {
        let (me, world) = (self.welcome.rank as usize, self.welcome.world as usize);
        if me == 0 && world > 1 {
            let id = self.device.comm_id(world)?;
            port.send(up::Message::CommId(CommId { id }));
        }
        if world > 1 {
            let Some(down::Message::Comm(Comm { id })) = port.next() else { return Ok(None) };
            let abort = self.device.join(&id, me, world)?;
            if let Ok(mut slot) = port.abort.lock() {
                *slot = Some(abort);
            }
        }
        let Some(down::Message::Allocate(Allocate { blocks })) = port.next() else {
            return Ok(None);
        };
        let (spec, limits) = (self.source.spec(), self.limits());
        let (got, wanted) = (blocks.len(), spec.kv_groups.len());
        if got != wanted {
            bail!("blocks for {got} KV groups where the model has {wanted}");
        }
        let mut memory = memory::lay_out(spec, &self.layout, limits, &blocks)?;
        if self.times.is_some() {
            memory = StepTimes::with_stamps(memory);
        }
        self.device.allocate(&memory)?;
        Ok(Some(blocks))
    }

    /// A rank that has its memory, ready to capture graphs and to work.
    fn into_engine(self, port: &EnginePort, blocks: Vec<u32>) -> Engine {
        let (spec, load, limits) = (self.source.spec(), &self.load, self.limits());
        let identity = RankIdentity {
            replica: ReplicaId(self.welcome.replica),
            epoch: Epoch(self.welcome.epoch),
            rank: Rank(self.welcome.rank),
        };
        let plan_limits = PlanLimits {
            slots_max: load.slots_max,
            tokens_per_step_max: load.tokens_per_step_max,
            vocab: spec.vocab,
            blocks,
        };
        let block_tokens = spec.kv_groups.iter().map(|group| group.block_tokens).collect();
        let slots = SlotTable::new(
            (identity.replica, identity.epoch),
            plan_limits,
            load.context_max,
            block_tokens,
        );
        let activations = Activations::new(spec, &self.layout, limits);
        let device = match self.times {
            Some(times) => ReadyDevice::Timed(Box::new(TimedBackend::new(self.device, times))),
            None => ReadyDevice::Bare(self.device),
        };
        Engine::new(EngineParts {
            identity,
            device,
            model: self.model,
            activations,
            slots,
            progress: Arc::clone(&port.progress),
        })
    }
}

/// Waits for `Welcome` and `Load`, and loads; `None` where the link closed.
fn load(port: &EnginePort) -> Result<Option<LoadedRank>> {
    let Some(down::Message::Welcome(welcome)) = port.next() else { return Ok(None) };
    let Some(down::Message::Load(load)) = port.next() else { return Ok(None) };
    load_rank(port, welcome, load).map(Some)
}

fn load_rank(port: &EnginePort, welcome: Welcome, load: Load) -> Result<LoadedRank> {
    let began = Instant::now();
    let open = if load.random_weights { Checkpoint::assumed } else { Checkpoint::open };
    let source = open(Path::new(&load.model))?;
    if source.digest().to_le_bytes().as_slice() != load.model_digest {
        bail!("{}: not the file that the coordinator opened (changed since?)", load.model);
    }
    let layout = layouts(source.spec(), welcome.world)?
        .into_iter()
        .nth(welcome.rank as usize)
        .context("rank outside of the world")?;
    let mut device = devices::open(&load, welcome.world as usize)?;
    let mut times = devices::step_times(&load, &welcome, &mut *device)?;
    let bytes_total = weight_bytes(source.spec(), &layout)?;
    let mut told = Instant::now();
    let mut done = |bytes_done| {
        if told.elapsed() >= PROGRESS_INTERVAL || bytes_done == bytes_total {
            told = Instant::now();
            port.send(up::Message::Progress(LoadProgress { bytes_done, bytes_total }));
        }
    };
    let tensors = source.local_tensors(&layout)?;
    let weights = if load.random_weights {
        device.random_weights(&tensors, &mut done)?
    } else {
        device.load(&source, &tensors, &mut done)?
    };
    if let Some(times) = &mut times {
        times.learn(&tensors, &weights, &*device);
    }
    let mut model = model::assemble(source.spec(), &layout, &tensors, &weights)?;
    model.limit_positions(load.context_max);
    let mut loaded = LoadedRank { welcome, load, source, layout, device, times, model };
    port.send(up::Message::Loaded(Loaded {
        bytes: bytes_total,
        blocks_max: loaded.blocks_max()?,
        kv_layout: loaded.device.kv_layout().into(),
        shard_digest: loaded.source.digest().to_le_bytes().to_vec(),
        load_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
    }));
    Ok(loaded)
}
