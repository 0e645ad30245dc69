//! The real program on GPUs. Several ranks share one card where there are no more: NCCL then takes
//! each for a host of its own, and a sum takes milliseconds, so their model is tiny.
//!
//! Without a GPU the tests say so and pass; with `BINFER_REQUIRE_GPU=1` a missing one fails them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use binfer_coordinator::text::TextModel;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Golden, Permit, Run, Server, TOKENS, binfer, goldens, model_path, repository, send_signal,
    traces,
};

/// From the kill to the last trace of the cluster.
const LIMIT: Duration = Duration::from_secs(5);
/// The demo model's logits lie around 15; bfloat16 rounds weights, cache and activations to 8 bits.
const CLOSE: f64 = 0.3;
const SHARED: (&str, &str) = ("BINFER_GPUS_SHARED", "1");

fn model() -> String {
    repository("tests/fixtures/tiny/qwen3").to_str().unwrap().to_owned()
}

/// Whether there is a GPU.
pub(crate) fn is_there() -> bool {
    let probe = binfer().args(["worker", "--probe"]).stderr(Stdio::null()).output().unwrap();
    let said = String::from_utf8(probe.stdout).unwrap();
    let found = said.contains(r#""device":"cuda""#);
    let required = std::env::var("BINFER_REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(found || !required, "{said}");
    if !found {
        eprintln!("skipped: {said}");
    }
    found
}

fn ready(world: usize, args: &[&str]) -> Server {
    let args = [&["--device", "cuda", "--max-model-len", "512"], args].concat();
    let mut server = Server::with(&model(), Permit::alone(), world, (&args, &[SHARED]));
    server.wait_until_ready();
    server
}

/// Texts of a few requests that run together, greedy and drawn.
fn texts(server: &Server) -> Vec<String> {
    let client = server.client;
    let ask = |index: usize| {
        let body = json!({
            "prompt": (0..1 + 9 * index).map(|at| (7 * at + index) % 90).collect::<Vec<_>>(),
            "max_tokens": 24, "ignore_eos": true, "seed": index,
            "temperature": if index.is_multiple_of(2) { 0.0 } else { 0.8 },
        });
        let reply = client.post("/v1/completions", &body).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        let usage: Value = reply.json()["usage"]["completion_tokens"].clone();
        assert_eq!(usage, 24, "{reply:?}");
        reply.text()
    };
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|index| scope.spawn(move || ask(index))).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

#[test]
fn ranks_on_gpus_agree_in_every_step() {
    if !is_there() {
        return;
    }
    for world in [2, 3] {
        let server = ready(world, &[]);
        let first = texts(&server);
        assert!(first.iter().all(|text| !text.is_empty()), "{first:?}");
        let log = server.stop();
        assert_eq!(log.matches("NCCL ").count(), world, "no ledger of each rank: {log}");
    }
}

/// Sends `signal` to a rank while tokens come: `what` of it must reach client and operator within
/// the limit after `patience`, and nobody may be left.
fn lose(rank: usize, signal: Signal, patience: Duration, what: &str) {
    let mut server = ready(2, &["--step-deadline", "2"]);
    let body = json!({
        "prompt": "night", "max_tokens": 480, "ignore_eos": true, "temperature": 0
    });
    let mut events = server.client.stream("/v1/completions", &body).unwrap().unwrap();
    events.pieces(3);
    let victim = server.worker(rank);
    assert!(send_signal(victim, signal), "rank {rank} ended before");
    let (sent, limit) = (Instant::now(), patience + LIMIT);
    let rest = events.rest();
    let cause = format!("rank {rank}: {what}");
    assert!(rest.error.as_deref().is_some_and(|error| error.contains(&cause)), "{rest:?}");
    let status = server.exit(limit.saturating_sub(sent.elapsed()));
    assert_eq!(status.code(), Some(70), "{}", server.log.text());
    assert_eq!(server.survivors(limit.saturating_sub(sent.elapsed())), []);
    assert!(traces(server.pid()).is_empty());
    eprintln!("{signal:?} to rank {rank}: all over after {:?}", sent.elapsed());
    assert!(server.log.finish().contains(&cause));
}

#[test]
fn a_killed_rank_on_a_gpu_ends_the_others_and_is_named() {
    if is_there() {
        for rank in [0, 1] {
            lose(rank, Signal::KILL, Duration::ZERO, "was killed by signal 9");
        }
    }
}

#[test]
fn a_rank_that_is_stopped_on_a_gpu_is_named_after_the_deadline() {
    if is_there() {
        lose(1, Signal::STOP, Duration::from_secs(2), "silent for 2.0 s");
    }
}

/// Asks the demo model on so many ranks for so many tokens of all goldens at once. It must say what
/// it says on the CPU, but from a token on where the two best are close.
fn demo_on(world: usize, tokens: usize) {
    let text =
        TextModel::from_source(&binfer_shard::Checkpoint::open(model_path()).unwrap()).unwrap();
    let args = ["--device", "cuda", "--max-num-seqs", "16", "--max-model-len", "2048"];
    let mut server = Server::with("demo", Permit::alone(), world, (&args, &[SHARED]));
    server.wait_until_ready();
    let client = server.client;
    let ask = |golden: &Golden| {
        let (path, mut body) = golden.ask_with_tokens();
        body["max_tokens"] = tokens.into();
        client.post(path, &body).unwrap().text()
    };
    let goldens = goldens();
    let said: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = goldens.iter().map(|golden| scope.spawn(|| ask(golden))).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut whole = 0;
    for (golden, said) in goldens.iter().zip(said) {
        let agrees = |count: usize| {
            let prefix = text.facts().decode(&golden.ids[..count]);
            said.starts_with(prefix.trim_end_matches(char::REPLACEMENT_CHARACTER))
        };
        let Some(first) = (1..=tokens).find(|count| !agrees(*count)) else {
            whole += 1;
            continue;
        };
        let gap = golden.gaps[first - 1];
        assert!(gap < CLOSE, "TP {world}, {}: token {first}, by {gap}: {said}", golden.name);
        eprintln!("TP {world}, {}: another token {first}, ahead by {gap}", golden.name);
    }
    eprintln!("TP {world}: {whole} of {} texts are the CPU's to the end", goldens.len());
    assert!(whole > 0, "no text is that of the CPU");
    server.stop();
}

#[test]
fn the_demo_model_says_what_it_says_on_the_cpu_but_where_two_tokens_are_close() {
    if is_there() {
        demo_on(1, TOKENS);
    }
}

/// Each of 61 sums a token takes milliseconds where ranks share a card: 24 tokens.
#[test]
fn ranks_on_gpus_have_the_demo_model_say_the_same() {
    if is_there() {
        [2, 3].into_iter().for_each(|world| demo_on(world, 24));
    }
}

#[test]
fn the_ledger_agrees_with_the_driver() {
    if !is_there() {
        return;
    }
    let _permit = Permit::alone();
    let run = Run::good(&["run", &model(), "night", "--device", "cuda", "--max-tokens", "2"]);
    let line = run.stderr.lines().find(|line| line.contains("in use ")).unwrap();
    let (_, ledger) = line.split_once("in use ").unwrap();
    let (ledger, _) = ledger.split_once(", pinned host memory").unwrap();
    let mebibytes = |entry: &str| -> f64 {
        let words: Vec<&str> = entry.split_whitespace().collect();
        words[words.len() - 2].parse().unwrap()
    };
    let entries: Vec<f64> = ledger.split(", ").map(mebibytes).collect();
    let (in_use, sum) = (entries[0], entries[1..].iter().sum::<f64>());
    assert!((sum / in_use - 1.0).abs() < 0.02, "{sum} of {in_use}: {line}");
}

#[test]
fn more_ranks_than_gpus_are_refused_with_the_way_out() {
    if !is_there() {
        return;
    }
    let run = Run::of(&["run", &model(), "night", "--device", "cuda", "--tp", "4"]);
    if run.status.success() {
        return; // as many GPUs are there
    }
    assert_eq!(run.status.code(), Some(78), "{run:?}");
    assert!(run.stderr.contains("--tp 4: a rank takes a GPU"), "{run:?}");
}
