//! Ranks that disagree: the step reaches nobody, and the liar is named where there is a majority.

use binfer_proto::{Plan, StepResult};
use serde_json::{Value, json};

use crate::harness::Streamed;
use crate::scripted::{Cluster, Script, Setup, honest, silent};

/// The step in which somebody lies: by then the client has text.
const LIE: u64 = 5;

fn body(max_tokens: u32) -> Value {
    json!({ "prompt": "Once upon a time", "max_tokens": max_tokens, "ignore_eos": true })
}

fn start(scripts: &[Script]) -> Cluster {
    Cluster::start(Setup { scripts, slots_max: 8, queue_max: 64 })
}

/// Another token comes out than on the other ranks.
fn lies_in_a_token(plan: &Plan, mut result: StepResult) -> Option<StepResult> {
    if plan.step.0 == LIE {
        result.digest ^= 0xbad;
    }
    Some(result)
}

fn runs_another_plan(plan: &Plan, mut result: StepResult) -> Option<StepResult> {
    if plan.step.0 == LIE {
        result.plan_hash = 0x000f_f7ac;
    }
    Some(result)
}

/// Reads a stream to its end, which must be an error. One piece came for each agreed step.
fn cut_stream(cluster: &Cluster) -> (Streamed, String) {
    let answer = cluster.client.streamed("/v1/completions", &body(100)).unwrap().unwrap();
    assert!(!answer.done && answer.finish.is_none() && !answer.words_after_end, "{answer:?}");
    let error = answer.error.clone().unwrap_or_else(|| panic!("{answer:?}"));
    (answer, error)
}

/// Text of an honest cluster's first steps.
fn honest_text(tokens: u32) -> String {
    let cluster = start(&[honest]);
    let answer = cluster.client.streamed("/v1/completions", &body(tokens)).unwrap().unwrap();
    assert!(answer.is_whole(), "{answer:?}");
    cluster.stop();
    answer.text
}

#[test]
fn scripted_ranks_that_agree_are_served() {
    let cluster = start(&[honest, honest, honest]);
    let answer = cluster.client.streamed("/v1/completions", &body(50)).unwrap().unwrap();
    assert!(answer.is_whole(), "{answer:?}");
    cluster.stop();
    assert_eq!(answer.text, honest_text(50));
}

#[test]
fn of_three_ranks_the_one_that_lies_in_a_token_is_named() {
    let cluster = start(&[honest, lies_in_a_token, honest]);
    let (answer, error) = cut_stream(&cluster);
    assert!(error.contains("step 5: rank 1 disagrees with the others: digest differs"), "{error}");
    let all = ["rank 0 0000000000d19e5c", "rank 1 0000000000d195f1", "rank 2 0000000000d19e5c"];
    assert!(all.iter().all(|digest| error.contains(digest)), "{error}");
    // Steps 1 to 4 were agreed on; nothing of the fifth may be seen.
    assert_eq!(answer.text, honest_text(4));
    assert_eq!(cluster.lost().to_string(), error);
}

#[test]
fn of_two_ranks_that_disagree_both_digests_are_shown() {
    let cluster = start(&[lies_in_a_token, honest]);
    let (answer, error) = cut_stream(&cluster);
    assert!(error.contains("step 5: ranks disagree: digest differs"), "{error}");
    let both = ["rank 0 0000000000d195f1", "rank 1 0000000000d19e5c"];
    assert!(both.iter().all(|digest| error.contains(digest)), "{error}");
    assert_eq!(answer.text, honest_text(4));
    assert_eq!(cluster.lost().to_string(), error);
}

#[test]
fn of_two_ranks_one_that_runs_another_plan_is_named_with_both_hashes() {
    let cluster = start(&[honest, runs_another_plan]);
    let (answer, error) = cut_stream(&cluster);
    assert!(error.contains("step 5: rank 1 ran another plan: plan hash differs"), "{error}");
    let hash = |after: &str| {
        let at = error.find(after).unwrap_or_else(|| panic!("no {after:?}: {error}")) + after.len();
        error[at..][..16].to_owned()
    };
    assert_eq!(hash("sent "), hash("rank 0 "), "{error}");
    assert_eq!(hash("(sent ").len(), 16, "{error}");
    assert!(error.contains("rank 1 00000000000ff7ac"), "{error}");
    assert_eq!(answer.text, honest_text(4));
    assert_eq!(cluster.lost().to_string(), error);
}

/// One runs, one waits, a third is one too many. The workers never answer, so nothing ends.
#[test]
fn a_full_queue_is_a_429_that_says_when_to_come_back() {
    let cluster = Cluster::start(Setup { scripts: &[silent], slots_max: 1, queue_max: 1 });
    let client = cluster.client;
    let mut refused = None;
    let mut held = Vec::new();
    for _ in 0..8 {
        match client.stream("/v1/completions", &body(10)).unwrap() {
            Ok(events) => held.push(events),
            Err(reply) => {
                refused = Some(reply);
                break;
            }
        }
    }
    let refused = refused.unwrap_or_else(|| panic!("{} requests were taken", held.len()));
    assert_eq!(refused.status, 429, "{refused:?}");
    assert_eq!(refused.json()["error"]["code"], "queue_full");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Clients that leave make room, although no step ever ends.
    drop(held);
    let again = crate::harness::poll(crate::harness::PATIENCE, || {
        client.stream("/v1/completions", &body(10)).unwrap().ok()
    });
    assert!(again.is_some(), "the queue stays full");
    drop(again);
    cluster.stop();
}
