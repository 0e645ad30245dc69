//! What is served is what happened, under the names that docs/metrics.md has.

use super::{LoadNumbers, Metrics, RefusalCause, RequestMeter};
use crate::sched::{CacheMisses, Counters, Finish, RequestId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DOCS: &str = include_str!("../../../docs/metrics.md");
const BOARD: &str = include_str!("../../../docs/deploy/grafana.json");

fn line<'a>(text: &'a str, start: &str) -> &'a str {
    let found = text.lines().find(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("no {start} in\n{text}"))
}

/// Metrics of a server that did everything once.
fn busy() -> Metrics {
    let metrics = Metrics::new("a \"model\"\n");
    metrics.refused(RefusalCause::Busy);
    metrics.ended(Finish::Stop);
    metrics.step(1, 4_000);
    let prefix_misses = CacheMisses { different: 4, ..CacheMisses::default() };
    let counters =
        Counters { preemptions: 3, prefix_hits: 2, prefix_misses, ..Counters::default() };
    metrics.counted(&counters);
    metrics.loaded(&LoadNumbers {
        running: 2,
        waiting: 5,
        block_tokens: 16,
        kv_tokens_max: 1600,
        kv_tokens_used: 400,
        kv_tokens_cached: 32,
        generated_per_s: 12.5,
    });
    metrics
}

#[test]
fn requests_are_measured_from_submission_to_their_end() {
    let metrics = Arc::new(Metrics::new("m"));
    let mut meter = RequestMeter::new(Arc::clone(&metrics));
    let start = Instant::now();
    meter.submitted(RequestId(1), 7);
    meter.tokens(RequestId(1), 0, start + Duration::from_millis(1));
    meter.tokens(RequestId(1), 1, start + Duration::from_millis(150));
    meter.tokens(RequestId(1), 2, start + Duration::from_millis(158));
    meter.ended(RequestId(1), Finish::Length);
    meter.ended(RequestId(1), Finish::Cancelled);
    meter.tokens(RequestId(1), 1, start + Duration::from_millis(200));
    let text = metrics.text(true);
    for wanted in [
        "binfer_prompt_tokens_total 7",
        "binfer_generated_tokens_total 3",
        "binfer_time_to_first_token_seconds_count 1",
        "binfer_time_to_first_token_seconds_bucket{le=\"0.1\"} 0",
        "binfer_time_to_first_token_seconds_bucket{le=\"0.2\"} 1",
        "binfer_inter_token_seconds_count 2",
        "binfer_inter_token_seconds_bucket{le=\"0.002\"} 0",
        "binfer_inter_token_seconds_bucket{le=\"0.005\"} 2",
        "binfer_request_seconds_count 1",
        "binfer_requests_ended_total{reason=\"length\"} 1",
    ] {
        assert_eq!(line(&text, wanted), wanted);
    }
    assert!(!text.contains("cancelled"), "{text}");
}

#[test]
fn what_the_endpoint_picker_reads_is_there() {
    let text = busy().text(true);
    let model = "model_name=\"a \\\"model\\\"\\n\"";
    for wanted in [
        format!("vllm:num_requests_running{{{model}}} 2.0"),
        format!("vllm:num_requests_waiting{{{model}}} 5.0"),
        format!("vllm:kv_cache_usage_perc{{{model}}} 0.25"),
        "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\"} 1.0".to_owned(),
        "vllm:lora_requests_info{max_lora=\"0\"".to_owned(),
    ] {
        line(&text, &wanted);
    }
}

#[test]
fn readiness_causes_and_ranks_are_told() {
    let metrics = busy();
    let text = metrics.text(false);
    line(&text, "binfer_ready 0.0");
    line(&metrics.text(true), "binfer_ready 1.0");
    line(&text, "binfer_requests_refused_total{cause=\"busy\"} 1");
    line(&text, "binfer_step_seconds_bucket{le=\"0.005\",rank=\"1\"} 1");
    line(&text, "binfer_preemptions_total 3");
    line(&text, "binfer_prefix_misses_total{cause=\"different\"} 4");
    line(&text, "binfer_prefix_misses_total{cause=\"evicted\"} 0");
    assert!(text.ends_with("# EOF\n"));
}

/// Names of metrics as they are served, without what a format adds.
fn served() -> BTreeSet<String> {
    let text = busy().text(true);
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    names.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn the_page_has_every_metric_and_no_other() {
    let rows = DOCS.lines().filter(|line| line.starts_with("| `"));
    let name = |row: &str| row.split('`').nth(1).unwrap().to_owned();
    let written: BTreeSet<String> = rows.map(name).collect();
    assert_eq!(written, served());
}

#[test]
fn the_board_asks_for_metrics_that_exist() {
    let board: serde_json::Value = serde_json::from_str(BOARD).unwrap();
    let served = served();
    let mut asked = 0;
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let words = query.split(|c: char| !(c.is_alphanumeric() || "_:".contains(c)));
            for word in words.filter(|word| word.starts_with("binfer_")) {
                let suffixes = ["_total", "_bucket", "_sum", "_count", ""];
                let known = suffixes
                    .iter()
                    .filter_map(|suffix| word.strip_suffix(suffix))
                    .any(|name| served.contains(name));
                assert!(known, "{word} in {query}");
                asked += 1;
            }
        }
    }
    assert!(asked > 10, "{asked}");
}
