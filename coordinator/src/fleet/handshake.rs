//! The handshake with the workers: hello, load, communicator, KV blocks, ready.
//!
//! Every answer is checked before the next message goes down. So ranks of different builds, or with
//! different files, never meet in a step.

use std::path::PathBuf;
use std::time::Instant;

use binfer_proto::cluster::{
    self, Allocate, Comm, Cuda, Hello, Load, Loaded, Ready, Welcome, down, up,
};
use binfer_proto::{PROTOCOL_DIGEST, VERSION};

use super::config::{CudaConfig, FleetConfig};
use super::error::FleetError;
use super::rank::rank_id;
use super::rendezvous::Rendezvous;
use super::watchdog::Watchdog;
use super::workers::Fleet;

/// How far loading has come, over all ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of weights that are read.
    pub bytes_done: u64,
    /// Bytes of weights to read; 0 until the first rank has told its part.
    pub bytes_total: u64,
}

/// What the workers told about themselves during the handshake.
#[derive(Clone, Debug)]
pub struct FleetInfo {
    /// Weight bytes by rank.
    pub weight_bytes: Vec<u64>,
    /// KV blocks per KV group, the smallest over ranks.
    pub blocks: Vec<u32>,
    /// The loading time of the slowest rank.
    pub load_us: u64,
    /// How each rank divides its device memory, for messages; empty on the CPU.
    pub memory: Vec<String>,
    /// What is slower than it could be, for messages.
    pub notes: Vec<String>,
}

impl Fleet {
    /// Starts the workers, which dial in at `rendezvous`, and waits until all are ready. `progress`
    /// is told how loading goes.
    pub async fn start(
        config: FleetConfig,
        rendezvous: Rendezvous,
        mut progress: impl FnMut(LoadProgress),
    ) -> Result<(Self, FleetInfo), FleetError> {
        let deadline = config.attach_deadline;
        let mut fleet = Self::launch(config, rendezvous)?;
        tokio::time::timeout(deadline, fleet.attach_all()).await.map_err(|_| {
            let missing = fleet.peers.iter().position(Option::is_none).unwrap_or(0);
            FleetError::worker(missing, format!("did not dial in within {deadline:?}"))
        })??;
        fleet.rendezvous = None;
        fleet.watchdog =
            Watchdog::new(fleet.config.world, fleet.config.step_deadline, Instant::now());
        let facts = fleet.load_all(&mut progress).await?;
        let ready = fleet.ready_all(&facts).await?;
        let note = |ready: &Ready| {
            let rank = ready.rank;
            ready.notes.iter().map(move |note| format!("rank {rank}: {note}")).collect::<Vec<_>>()
        };
        let notes = ready.iter().flat_map(note).collect();
        let memory = ready.into_iter().map(|ready| ready.memory).collect();
        Ok((fleet, FleetInfo { memory, notes, ..facts }))
    }

    async fn attach_all(&mut self) -> Result<(), FleetError> {
        while self.peers.iter().any(Option::is_none) {
            let (rank, message) = self.receive().await?;
            let up::Message::Hello(hello) = message else {
                return Err(FleetError::worker(rank, "sent another message before its hello"));
            };
            check_build(rank, &hello)?;
        }
        let FleetConfig { replica, epoch, world, load, .. } = &self.config;
        let world = rank_id(*world).0;
        for (index, peer) in self.peers.iter().enumerate() {
            let Some((_, down)) = peer else { continue };
            let rank = rank_id(index).0;
            down.send(down::Message::Welcome(Welcome {
                replica: replica.0,
                rank,
                world,
                epoch: epoch.0,
            }));
            let trace = load.timing.trace_of(rank as usize, world as usize);
            down.send(down::Message::Load(Load {
                model: load.model.to_string_lossy().into_owned(),
                model_digest: load.model_digest.to_le_bytes().to_vec(),
                kv_dtype: cluster::KvDtype::from(load.kv_dtype).into(),
                threads: load.threads,
                slots_max: load.slots_max,
                tokens_per_step_max: load.tokens_per_step_max,
                context_max: load.context_max,
                kv_bytes: load.kv_budget.bytes(),
                cuda: load.cuda.as_ref().map(|config| cuda(config, index)),
                random_weights: load.random_weights,
                profile: load.timing.profile,
                trace: trace.map_or_else(String::new, |path| path.to_string_lossy().into_owned()),
            }));
        }
        Ok(())
    }

    async fn load_all(
        &mut self,
        progress: &mut impl FnMut(LoadProgress),
    ) -> Result<FleetInfo, FleetError> {
        let world = self.config.world;
        let mut done: Vec<LoadProgress> = vec![LoadProgress::default(); world];
        let mut loaded: Vec<Option<Loaded>> = vec![None; world];
        let mut comm_id = None;
        while loaded.iter().any(Option::is_none) || (world > 1 && comm_id.is_none()) {
            match self.receive().await? {
                (rank, up::Message::Progress(at)) => {
                    let (bytes_done, bytes_total) = (at.bytes_done, at.bytes_total);
                    done[rank] = LoadProgress { bytes_done, bytes_total };
                    progress(LoadProgress {
                        bytes_done: done.iter().map(|at| at.bytes_done).sum(),
                        bytes_total: done.iter().map(|at| at.bytes_total).sum(),
                    });
                }
                (rank, up::Message::Loaded(answer)) => loaded[rank] = Some(answer),
                (0, up::Message::CommId(comm)) => comm_id = Some(comm.id),
                (rank, _) => return Err(FleetError::worker(rank, "unexpected answer to load")),
            }
        }
        if let Some(id) = comm_id {
            self.broadcast(&down::Message::Comm(Comm { id }));
        }
        agree(&loaded.into_iter().flatten().collect::<Vec<_>>())
    }

    async fn ready_all(&mut self, facts: &FleetInfo) -> Result<Vec<Ready>, FleetError> {
        self.broadcast(&down::Message::Allocate(Allocate { blocks: facts.blocks.clone() }));
        let mut ready = vec![None; self.config.world];
        while !ready.iter().all(Option::is_some) {
            match self.receive().await? {
                (rank, up::Message::Ready(answer)) => ready[rank] = Some(answer),
                (rank, _) => return Err(FleetError::worker(rank, "unexpected answer to allocate")),
            }
        }
        Ok(ready.into_iter().flatten().collect())
    }
}

/// The GPU settings that are sent to `rank`.
fn cuda(config: &CudaConfig, rank: usize) -> Cuda {
    let name = |folder: &PathBuf| folder.to_string_lossy().into_owned();
    Cuda {
        ordinal: config.ordinals.get(rank).copied().unwrap_or(0),
        kernels: config.kernels.to_owned(),
        graphs: config.graphs,
        memory_utilization: config.memory_utilization,
        libraries: config.libraries.iter().map(name).collect(),
    }
}

fn check_build(rank: usize, hello: &Hello) -> Result<(), FleetError> {
    if (hello.version.as_str(), hello.build.as_str()) == (VERSION, PROTOCOL_DIGEST) {
        return Ok(());
    }
    Err(FleetError::worker(
        rank,
        format!(
            "is binfer {} (protocol {}), the coordinator is {VERSION} (protocol {PROTOCOL_DIGEST}): \
             start both from the same program",
            hello.version, hello.build
        ),
    ))
}

/// Checks that all ranks hold the same checkpoint in the same layout. The smallest KV pool counts.
fn agree(loaded: &[Loaded]) -> Result<FleetInfo, FleetError> {
    let Some(first) = loaded.first() else {
        return Err(FleetError::Defect("a fleet without ranks".into()));
    };
    for (rank, answer) in loaded.iter().enumerate() {
        if answer.shard_digest != first.shard_digest || answer.kv_layout != first.kv_layout {
            return Err(FleetError::worker(rank, "loaded another checkpoint than rank 0"));
        }
        if answer.blocks_max.len() != first.blocks_max.len() {
            return Err(FleetError::worker(rank, "has other KV groups than rank 0"));
        }
    }
    let smallest = |kv_group: usize| loaded.iter().map(|answer| answer.blocks_max[kv_group]).min();
    Ok(FleetInfo {
        weight_bytes: loaded.iter().map(|answer| answer.bytes).collect(),
        blocks: (0..first.blocks_max.len()).filter_map(smallest).collect(),
        load_us: loaded.iter().map(|answer| answer.load_us).max().unwrap_or(0),
        memory: Vec::new(),
        notes: Vec::new(),
    })
}
