//! Two engines of one model that are given the same plans and must give the same results.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use binfer_coordinator::sched::{KvGroupConfig, SchedConfig};
use binfer_proto::{Epoch, Plan, PlanLimits, Rank, ReplicaId, StepResult};
use binfer_shard::{Checkpoint, layouts};
use binfer_worker::backend::{RankDevice, ReadyDevice};
use binfer_worker::engine::{Engine, EngineParts, LaunchedStep, RankIdentity, StepInFlight};
use binfer_worker::memory::{self, Activations, StepLimits};
use binfer_worker::model;
use binfer_worker::progress::StepProgress;
use binfer_worker::slots::SlotTable;

pub(crate) const SLOTS: u32 = 16;
pub(crate) const CONTEXT_MAX: u32 = 512;
const TOKENS_PER_STEP_MAX: u32 = 64;
/// Per KV group: far below what all slots could use, so that sequences are preempted.
const BLOCKS: u32 = 26;
const REPLICA: ReplicaId = ReplicaId(1);
const EPOCH: Epoch = Epoch(1);

/// A model of two layers, one of which sees a window, with heads of a published width.
pub(crate) fn source() -> Checkpoint {
    let config = r#"{
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "bfloat16",
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1002,
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "hidden_act": "silu", "tie_word_embeddings": false,
        "use_sliding_window": true, "sliding_window": 100, "max_window_layers": 1
    }"#;
    let folder: PathBuf = std::env::temp_dir().join(format!("binfer-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), config).unwrap();
    let source = Checkpoint::assumed(&folder).unwrap();
    assert_eq!(source.spec().kv_groups.len(), 2, "one with a window, one without");
    source
}

/// For the scheduler: what the engines have.
pub(crate) fn sched_config(source: &Checkpoint) -> SchedConfig {
    let groups = source.spec().kv_groups.iter();
    SchedConfig {
        replica: REPLICA,
        epoch: EPOCH,
        slots_max: SLOTS,
        tokens_per_step_max: TOKENS_PER_STEP_MAX,
        context_max: CONTEXT_MAX,
        queue_max: 16,
        queue_tokens_max: 1 << 20,
        kv_groups: groups
            .map(|group| KvGroupConfig {
                block_tokens: group.block_tokens,
                blocks: BLOCKS,
                window: group.kind.window(),
            })
            .collect(),
        prefix_cache: true,
    }
}

/// An engine on `device`, ready for steps.
fn engine(source: &Checkpoint, mut device: Box<dyn RankDevice>) -> Engine {
    let spec = source.spec();
    let layout = layouts(spec, 1).unwrap().remove(0);
    let tensors = source.local_tensors(&layout).unwrap();
    let weights = device.random_weights(&tensors, &mut |_| ()).unwrap();
    let model = model::assemble(spec, &layout, &tensors, &weights).unwrap();
    let limits = StepLimits {
        slots_max: SLOTS,
        tokens_per_step_max: TOKENS_PER_STEP_MAX,
        context_max: CONTEXT_MAX,
    };
    let activations = Activations::new(spec, &layout, limits);
    let blocks = vec![BLOCKS; spec.kv_groups.len()];
    device.allocate(&memory::lay_out(spec, &layout, limits, &blocks).unwrap()).unwrap();
    let limits = PlanLimits {
        slots_max: SLOTS,
        tokens_per_step_max: TOKENS_PER_STEP_MAX,
        vocab: spec.vocab,
        blocks,
    };
    let block_tokens = spec.kv_groups.iter().map(|group| group.block_tokens).collect();
    let mut engine = Engine::new(EngineParts {
        identity: RankIdentity { replica: REPLICA, epoch: EPOCH, rank: Rank(0) },
        device: ReadyDevice::Bare(device),
        model,
        activations,
        slots: SlotTable::new((REPLICA, EPOCH), limits, CONTEXT_MAX, block_tokens),
        progress: Arc::new(StepProgress::default()),
    });
    engine.capture_graphs().unwrap();
    engine
}

/// See the module.
pub(crate) struct Pair {
    engines: [Engine; 2],
    in_flight: VecDeque<[StepInFlight; 2]>,
}

impl Pair {
    pub(crate) fn new(source: &Checkpoint, devices: [Box<dyn RankDevice>; 2]) -> Self {
        let engines = devices.map(|device| engine(source, device));
        Self { engines, in_flight: VecDeque::new() }
    }

    /// Both begin the step.
    pub(crate) fn launch(&mut self, plan: &Plan) {
        let launch = |engine: &mut Engine| match engine.launch(plan).unwrap() {
            LaunchedStep::InFlight(step) => step,
            LaunchedStep::Waiting(step) => panic!("step {} is masked", step.step()),
        };
        self.in_flight.push_back(self.engines.each_mut().map(launch));
    }

    /// The oldest step's result, which both must have.
    pub(crate) fn collect(&mut self) -> Option<StepResult> {
        let [first, second] = self.in_flight.pop_front()?;
        let one = self.engines[0].collect(first).unwrap();
        let other = self.engines[1].collect(second).unwrap();
        assert_eq!(one.rows, other.rows, "step {}", one.step);
        assert_eq!(one.digest, other.digest, "step {}", one.step);
        assert_eq!(one.plan_hash, other.plan_hash, "step {}", one.step);
        Some(one)
    }
}
