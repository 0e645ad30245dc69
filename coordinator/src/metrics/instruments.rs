//! The instruments and their names: what is counted as it happens, and what is read off the load.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

use super::labels::{
    BuildLabel, CacheLabel, CauseLabel, LoraLabel, MissLabel, ModelLabel, RankLabel, ReasonLabel,
};

pub(super) type Total = Counter<u64, AtomicU64>;
type Number = Gauge<f64, AtomicU64>;

/// Bounds of buckets [s]: time to the first token, between tokens, of a request, of a step.
const FIRST_TOKEN_S: [f64; 14] =
    [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0];
const INTER_TOKEN_S: [f64; 12] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5];
const REQUEST_S: [f64; 12] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0];
const STEP_S: [f64; 13] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// What is counted as it happens.
pub(super) struct Instruments {
    pub(super) first_token_seconds: Histogram,
    pub(super) inter_token_seconds: Histogram,
    pub(super) request_seconds: Histogram,
    pub(super) step_seconds: Family<RankLabel, Histogram>,
    pub(super) prompt_tokens: Total,
    pub(super) generated_tokens: Total,
    pub(super) ended: Family<ReasonLabel, Total>,
    pub(super) refused: Family<CauseLabel, Total>,
    pub(super) preemptions: Total,
    pub(super) prefix_hits: Total,
    pub(super) prefix_tokens_hit: Total,
    pub(super) prefix_misses: Family<MissLabel, Total>,
}

impl Instruments {
    /// All of them, known to `registry`.
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let step = || Histogram::new(STEP_S);
        let all = Self {
            first_token_seconds: Histogram::new(FIRST_TOKEN_S),
            inter_token_seconds: Histogram::new(INTER_TOKEN_S),
            request_seconds: Histogram::new(REQUEST_S),
            step_seconds: Family::new_with_constructor(step as fn() -> Histogram),
            prompt_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            ended: Family::default(),
            refused: Family::default(),
            preemptions: Counter::default(),
            prefix_hits: Counter::default(),
            prefix_tokens_hit: Counter::default(),
            prefix_misses: Family::default(),
        };
        let mut time = |name: &str, help: &str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        time(
            "binfer_time_to_first_token",
            "From taking a request to its first token",
            &all.first_token_seconds,
        );
        time("binfer_inter_token", "Between two tokens of a request", &all.inter_token_seconds);
        time("binfer_request", "From taking a request to its end", &all.request_seconds);
        registry.register_with_unit(
            "binfer_step",
            "A step on a rank, as the rank says",
            Unit::Seconds,
            all.step_seconds.clone(),
        );
        let mut total = |name: &str, help: &str, counter: &Total| {
            registry.register(name, help, counter.clone());
        };
        total("binfer_prompt_tokens", "Tokens of prompts that were taken", &all.prompt_tokens);
        total("binfer_generated_tokens", "Tokens that were sampled", &all.generated_tokens);
        total("binfer_preemptions", "Sequences that made room for others", &all.preemptions);
        total("binfer_prefix_hits", "Sequences that found cached blocks", &all.prefix_hits);
        total("binfer_prefix_hit_tokens", "Tokens in those blocks", &all.prefix_tokens_hit);
        let misses = "Sequences by why they got no more out of the prefix cache";
        registry.register("binfer_prefix_misses", misses, all.prefix_misses.clone());
        registry.register("binfer_requests_ended", "Requests by their end", all.ended.clone());
        let refused = "Requests that were not taken, by the cause";
        registry.register("binfer_requests_refused", refused, all.refused.clone());
        all
    }
}

/// The load in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadNumbers {
    /// Requests that hold a slot.
    pub running: usize,
    /// Requests that wait for one.
    pub waiting: usize,
    /// Tokens in a block of the KV cache.
    pub block_tokens: u32,
    /// Tokens that the KV cache holds.
    pub kv_tokens_max: usize,
    /// Tokens that requests hold in it.
    pub kv_tokens_used: usize,
    /// Tokens of prefixes that it keeps and that no request holds.
    pub kv_tokens_cached: usize,
    /// Tokens sampled a second, over the last second.
    pub generated_per_s: f64,
}

/// What is set now and then.
pub(super) struct Gauges {
    ready: Number,
    running: Number,
    waiting: Number,
    kv_used_ratio: Number,
    kv_tokens: Number,
    kv_tokens_cached: Number,
    generated_per_s: Number,
    model: ModelLabel,
    vllm_running: Family<ModelLabel, Number>,
    vllm_waiting: Family<ModelLabel, Number>,
    vllm_cache_usage: Family<ModelLabel, Number>,
    vllm_cache_config: Family<CacheLabel, Number>,
}

impl Gauges {
    /// All of them, known to `registry`.
    pub(super) fn registered(registry: &mut Registry, model: &str) -> Self {
        let mut gauge = |name: &str, help: &str| {
            let gauge = Number::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let all = Self {
            ready: gauge("binfer_ready", "1 while requests are taken"),
            running: gauge("binfer_requests_running", "Requests that hold a slot"),
            waiting: gauge("binfer_requests_waiting", "Requests that wait for one"),
            kv_used_ratio: gauge(
                "binfer_kv_cache_used_ratio",
                "Of the KV cache, what requests hold",
            ),
            kv_tokens: gauge("binfer_kv_cache_tokens", "Tokens that the KV cache holds"),
            kv_tokens_cached: gauge(
                "binfer_kv_cache_prefix_tokens",
                "Tokens of idle prefixes in it",
            ),
            generated_per_s: gauge("binfer_generated_tokens_per_second", "Over the last second"),
            model: ModelLabel { model_name: model.to_owned() },
            vllm_running: Family::default(),
            vllm_waiting: Family::default(),
            vllm_cache_usage: Family::default(),
            vllm_cache_config: Family::default(),
        };
        let build =
            BuildLabel { version: binfer_proto::VERSION.to_owned(), model: model.to_owned() };
        let lora = LoraLabel {
            max_lora: 0,
            running_lora_adapters: String::new(),
            waiting_lora_adapters: String::new(),
        };
        one(registry, "binfer_build_info", "Which binfer serves which model", build);
        one(registry, "vllm:lora_requests_info", "Adapters, of which there are none", lora);
        let mut vllm = |name: &str, help: &str, family: &Family<ModelLabel, Number>| {
            registry.register(name, help, family.clone());
        };
        vllm("vllm:num_requests_running", "binfer_requests_running", &all.vllm_running);
        vllm("vllm:num_requests_waiting", "binfer_requests_waiting", &all.vllm_waiting);
        vllm("vllm:kv_cache_usage_perc", "binfer_kv_cache_used_ratio", &all.vllm_cache_usage);
        let config = all.vllm_cache_config.clone();
        registry.register("vllm:cache_config_info", "Sizes of the KV cache", config);
        all
    }

    /// Says whether requests are taken.
    pub(super) fn set_ready(&self, is_ready: bool) {
        self.ready.set(f64::from(u8::from(is_ready)));
    }

    /// Sets the others to what `load` says.
    pub(super) fn set(&self, load: &LoadNumbers) {
        let used_ratio = load.kv_tokens_used as f64 / load.kv_tokens_max.max(1) as f64;
        self.running.set(load.running as f64);
        self.waiting.set(load.waiting as f64);
        self.kv_used_ratio.set(used_ratio);
        self.kv_tokens.set(load.kv_tokens_max as f64);
        self.kv_tokens_cached.set(load.kv_tokens_cached as f64);
        self.generated_per_s.set(load.generated_per_s);
        self.vllm_running.get_or_create(&self.model).set(load.running as f64);
        self.vllm_waiting.get_or_create(&self.model).set(load.waiting as f64);
        self.vllm_cache_usage.get_or_create(&self.model).set(used_ratio);
        let block_tokens = load.block_tokens.max(1);
        let config = CacheLabel {
            block_size: u64::from(load.block_tokens),
            num_gpu_blocks: load.kv_tokens_max as u64 / u64::from(block_tokens),
        };
        self.vllm_cache_config.get_or_create(&config).set(1.0);
    }
}

/// A series whose labels say everything.
fn one<L>(registry: &mut Registry, name: &str, help: &str, label: L)
where
    L: Clone + Eq + std::hash::Hash + std::fmt::Debug + Send + Sync + 'static,
    L: prometheus_client::encoding::EncodeLabelSet,
{
    let family = Family::<L, Number>::default();
    family.get_or_create(&label).set(1.0);
    registry.register(name, help, family);
}
