//! What operators, probes and gateways ask of a server: health, metrics, facts and load.

use super::app_state::AppState;
use super::error::ApiError;
use crate::front::Readiness;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

/// OpenMetrics 1.0 as text.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether requests are taken, and otherwise why not.
pub(super) async fn health(State(app): State<Arc<AppState>>) -> Response {
    match app.core.readiness() {
        Readiness::Ready => Json(json!({ "status": "ready" })).into_response(),
        not_ready => {
            let retry_after = Some(app.core.limits().retry_after);
            let status = StatusCode::SERVICE_UNAVAILABLE;
            ApiError { retry_after, ..ApiError::new(status, not_ready.to_string()) }.into_response()
        }
    }
}

/// The process answers, whatever the engine does.
pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// Everything that is measured.
pub(super) async fn metrics(State(app): State<Arc<AppState>>) -> Response {
    let text = app.core.metrics().text(app.core.readiness() == Readiness::Ready);
    ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}

/// Which binfer this is.
pub(super) async fn version() -> Json<Value> {
    Json(json!({ "version": binfer_proto::VERSION }))
}

/// Sizes of the engine.
pub(super) async fn server_info(State(app): State<Arc<AppState>>) -> Json<Value> {
    let load = app.core.load();
    Json(json!({
        "server_type": "binfer",
        "version": binfer_proto::VERSION,
        "started": app.core.model().created,
        "max_num_seqs": load.running_max,
        "max_model_len": app.core.context_max(),
        "block_size": load.block_tokens,
        "max_total_num_tokens": load.kv_tokens_max,
        "data_parallel_size": 1,
    }))
}

/// Facts about the model.
pub(super) async fn model_info(State(app): State<Arc<AppState>>) -> Json<Value> {
    let model = app.core.model();
    Json(json!({
        "model_path": model.name,
        "served_model_name": model.name,
        "is_generation": true,
        "max_model_len": app.core.context_max(),
        "vocab_size": model.vocab,
        "eos_token_ids": model.end_ids,
        "has_chat_template": app.core.has_template(),
    }))
}

/// The load, under the names of the gRPC call `GetLoads`.
pub(super) async fn loads(State(app): State<Arc<AppState>>) -> Json<Value> {
    let load = app.core.load();
    Json(json!({
        "version": binfer_proto::VERSION,
        "dp_rank_count": 1,
        "loads": [{
            "dp_rank": 0,
            "num_running_reqs": load.running,
            "num_waiting_reqs": load.waiting,
            "num_total_reqs": load.running + load.waiting,
            "num_used_tokens": load.kv_tokens_used,
            "max_total_num_tokens": load.kv_tokens_max,
            "token_usage": load.used_share(),
            "gen_throughput": load.generated_per_s,
            "cache_hit_rate": load.cached_share,
            "utilization": load.slots_share(),
            "max_running_requests": load.running_max,
        }],
    }))
}
