//! `--profile` and `--trace`, as somebody who looks for lost time uses them.

use serde_json::Value;

use crate::harness::{Permit, Run, Scratch, repository};

/// What each layer of the demo model does, and how many it has.
const OF_LAYER: [&str; 5] = ["attn.qkv", "attn.attend", "attn.out", "ffn.gate_up", "ffn.down"];
const LAYERS: usize = 30;

#[test]
fn a_profile_has_every_operation_and_says_what_it_cost() {
    let _permit = Permit::one();
    let run = Run::good(&["run", "demo", "Once", "--max-tokens", "4", "--profile"]);
    let rows: Vec<Vec<&str>> =
        run.stderr.lines().map(|line| line.split_whitespace().collect()).collect();
    let calls = |name: &str| {
        let row = rows.iter().find(|row| row.first() == Some(&name));
        row.unwrap_or_else(|| panic!("{name}: {}", run.stderr))[1].to_owned()
    };
    for name in OF_LAYER {
        assert_eq!(calls(name), (4 * LAYERS).to_string(), "{name}");
    }
    for name in ["step.begin", "embed", "head", "sample", "step.end"] {
        assert_eq!(calls(name), "4", "{name}");
    }
    assert!(run.stderr.lines().any(|line| line.starts_with("4 steps, ")), "{}", run.stderr);
}

#[test]
fn a_trace_is_a_file_a_rank_that_viewers_read() {
    let _permit = Permit::one();
    let scratch = Scratch::new("timing");
    let name = &scratch.arg("steps.json");
    Run::good(&["run", "demo", "Once", "--max-tokens", "3", "--tp", "2", "--trace", name]);
    for rank in 0..2_u64 {
        let text = std::fs::read_to_string(format!("{name}.rank-{rank}")).unwrap();
        let events: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert!(events.iter().all(|event| event["ph"] == "X" && event["pid"] == rank));
        let steps =
            events.iter().filter(|event| event["name"].as_str().unwrap().starts_with("step "));
        assert_eq!(steps.count(), 3);
        let last = format!("layers.{}.ffn.down", LAYERS - 1);
        assert_eq!(events.iter().filter(|event| event["name"] == last.as_str()).count(), 3);
        let times = events.iter().map(|event| event["ts"].as_f64().unwrap());
        assert!(times.collect::<Vec<_>>().is_sorted());
    }
}

#[test]
fn a_trace_that_cannot_be_written_is_refused_before_anything_starts() {
    let _permit = Permit::one();
    let run = Run::of(&["run", "demo", "Once", "--trace", "/nowhere/at/all.json"]);
    assert_eq!(run.status.code(), Some(78));
    assert!(run.stderr.contains("--trace: /nowhere/at/all.json: "), "{}", run.stderr);
    // The name of a rank's file can be foreseen.
    let scratch = Scratch::new("timing-planted");
    let precious = scratch.file("precious");
    std::fs::write(&precious, "precious").unwrap();
    std::fs::hard_link(&precious, scratch.file("steps.json.rank-1")).unwrap();
    let run = Run::of(&["run", "demo", "Once", "--tp", "2", "--trace", &scratch.arg("steps.json")]);
    assert_eq!(run.status.code(), Some(78));
    assert!(run.stderr.contains("steps.json.rank-1: ") && run.stderr.contains("a second name"));
    assert_eq!(std::fs::read(precious).unwrap(), b"precious");
}

#[test]
fn a_trace_that_a_full_disk_cuts_off_is_named_and_costs_no_answer() {
    let _permit = Permit::one();
    let tiny = repository("tests/fixtures/tiny/qwen3");
    let args = ["run", tiny.to_str().unwrap(), "Once", "--max-tokens"];
    let trace = ["--trace", "/dev/full"];
    for tokens in ["2", "40"] {
        let run = Run::good(&[&args[..], &[tokens], &trace].concat());
        let named = "--trace: /dev/full: No space left on device";
        assert!(run.stderr.contains(named), "{tokens}: {}", run.stderr);
    }
}
