//! What the protocol tells of model, server and load.

use crate::front::{Core, Load, Readiness};
use crate::grpc::date::since_1970;
use binfer_proto::client::smg::grpc::common::EngineLoad;
use binfer_proto::client::vllm::grpc::engine::{
    GetLoadsResponse, GetModelInfoResponse, GetServerInfoResponse, HealthCheckResponse,
    SchedulerLoad,
};
use serde_json::json;
use std::time::Duration;

/// What gateways call an engine that speaks this protocol.
const SERVER_TYPE: &str = "vllm-grpc";

pub(super) fn health(core: &Core) -> HealthCheckResponse {
    let readiness = core.readiness();
    HealthCheckResponse { healthy: readiness == Readiness::Ready, message: readiness.to_string() }
}

pub(super) fn model(core: &Core) -> GetModelInfoResponse {
    let (model, context_max) = (core.model(), core.context_max());
    let sampling = model.sampling;
    let defaults = json!({
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    });
    GetModelInfoResponse {
        model_path: model.name.clone(),
        is_generation: true,
        max_context_length: context_max,
        vocab_size: model.vocab,
        supports_vision: false,
        served_model_name: model.name.clone(),
        eos_token_ids: model.end_ids.iter().map(|id| int(*id as usize)).collect(),
        max_req_input_len: int(context_max as usize).saturating_sub(1),
        default_sampling_params_json: defaults.to_string(),
    }
}

pub(super) fn server(core: &Core, uptime: Duration) -> GetServerInfoResponse {
    let load = core.load();
    GetServerInfoResponse {
        active_requests: count(load.running + load.waiting),
        is_paused: false,
        uptime_seconds: uptime.as_secs_f64(),
        server_type: SERVER_TYPE.to_owned(),
        data_parallel_size: 1,
        block_size: int(load.block_tokens as usize),
        max_num_seqs: int(load.running_max),
    }
}

pub(super) fn loads(core: &Core) -> GetLoadsResponse {
    let load = core.load();
    let of_replica = SchedulerLoad {
        dp_rank: 0,
        num_running_reqs: int(load.running),
        num_waiting_reqs: int(load.waiting),
        num_total_reqs: int(load.running + load.waiting),
        num_used_tokens: int(load.kv_tokens_used),
        max_total_num_tokens: int(load.kv_tokens_max),
        token_usage: load.used_share(),
        gen_throughput: load.generated_per_s,
        cache_hit_rate: load.cached_share,
        utilization: load.slots_share(),
        max_running_requests: int(load.running_max),
    };
    GetLoadsResponse {
        timestamp: since_1970().as_secs_f64().to_string(),
        version: binfer_proto::VERSION.to_owned(),
        dp_rank_count: 1,
        loads: vec![of_replica],
    }
}

/// The record `sample` of a stream.
pub(super) fn engine_load(load: &Load, sample: u64) -> EngineLoad {
    let silence = load.silence().map(|silence| u32::try_from(silence.as_millis()));
    EngineLoad {
        running_requests: count(load.running),
        waiting_requests: count(load.waiting),
        token_usage: load.used_share(),
        active_token_usage: Some(load.active_share()),
        gen_throughput: load.generated_per_s,
        max_running_requests: count(load.running_max),
        age_ms: 0,
        sample,
        load_only: true,
        cache_hit_rate: Some(load.cached_share),
        num_used_tokens: Some(int(load.kv_tokens_used)),
        max_total_num_tokens: Some(int(load.kv_tokens_max)),
        engine_silence_ms: silence.map(|ms| ms.unwrap_or(u32::MAX)),
        engine_reports_steps: Some(true),
    }
}

fn int(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
