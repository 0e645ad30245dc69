//! What probes, gateways and Prometheus read.

use super::client::server;
use crate::front::Readiness;
use crate::front::testing::{Act, say};
use crate::sched::Finish;
use serde_json::Value;

#[tokio::test]
async fn health_follows_readiness_and_life_does_not() {
    let server = server(vec![]);
    for path in ["/health", "/health/ready", "/readyz", "/ping"] {
        assert_eq!(server.ask("GET", path, "").await.status, 200, "{path}");
    }
    server.scripted.readiness.send_replace(Readiness::Lost("rank 1 stands still".into()));
    for path in ["/health", "/health/ready", "/readyz", "/ping"] {
        let answer = server.ask("GET", path, "").await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.body.contains("rank 1 stands still"), "{answer:?}");
    }
    assert_eq!(server.ask("GET", "/livez", "").await.status, 200);
    let metrics = server.ask("GET", "/metrics", "").await;
    assert!(metrics.body.contains("\nbinfer_ready 0.0\n"), "{metrics:?}");
}

#[tokio::test]
async fn facts_and_load_are_told_as_gateways_read_them() {
    let server = server(vec![]);
    let json = async |path| -> Value {
        let answer = server.ask("GET", path, "").await;
        assert_eq!(answer.status, 200, "{path}");
        answer.json()
    };
    assert_eq!(json("/version").await["version"], binfer_proto::VERSION);
    let info = json("/server_info").await;
    assert_eq!((&info["max_num_seqs"], &info["max_model_len"]), (&8.into(), &256.into()));
    let model = json("/model_info").await;
    assert_eq!((&model["model_path"], &model["is_generation"]), (&"tiny".into(), &true.into()));
    let loads = json("/v1/loads").await;
    assert_eq!(loads["dp_rank_count"], 1);
    assert_eq!(loads["loads"][0]["max_running_requests"], 8);
    assert_eq!(loads["loads"][0]["num_total_reqs"], 0);
}

#[tokio::test]
async fn refusals_are_counted_by_cause_and_the_page_has_its_type() {
    let server = server(vec![vec![say("text"), Act::Finish(Finish::Stop)]]);
    let refused = server.ask("POST", "/v1/completions", r#"{"prompt": "a", "top_p": 2}"#).await;
    assert_eq!(refused.status, 400);
    let taken = server.ask("POST", "/v1/completions", r#"{"prompt": "a"}"#).await;
    assert_eq!(taken.status, 200);
    let metrics = server.ask("GET", "/metrics", "").await;
    assert!(metrics.head.contains("content-type: application/openmetrics-text"), "{metrics:?}");
    let counted = "\nbinfer_requests_refused_total{cause=\"invalid\"} 1\n";
    assert!(metrics.body.contains(counted), "{metrics:?}");
}
