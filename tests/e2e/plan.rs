//! `binfer plan` and `serve`'s ledger: what they say, and that workers come to the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use binfer_coordinator::blueprint::Blueprint;
use binfer_coordinator::fleet::{Fleet, FleetInfo, Spawn};
use binfer_coordinator::model_args::ModelArgs;
use binfer_shard::Checkpoint;
use clap::Parser;
use serde_json::Value;

use crate::harness::{Permit, Run, Scratch, binfer, repository};
use crate::hub_server::{HubServer, REPOSITORY};
use crate::scripted::rendezvous;

#[derive(Parser, Debug)]
struct Flags {
    #[command(flatten)]
    model: ModelArgs,
}

fn tiny(name: &str) -> PathBuf {
    repository("tests/fixtures/tiny").join(name)
}

fn plan(args: &[&str]) -> Value {
    let run = Run::good(&[&["plan"], args, &["--json"]].concat());
    assert_eq!(run.stderr, "");
    serde_json::from_str(&run.stdout).unwrap()
}

/// What the workers of a cluster report once they have loaded: bytes, blocks.
fn reported(path: &Path, flags: &[&str]) -> (Blueprint, Vec<u64>, Vec<u32>) {
    let args = Flags::parse_from([&["binfer", path.to_str().unwrap()], flags].concat()).model;
    let source = Checkpoint::open(path).unwrap();
    let options = args.check("tiny".into(), &source).unwrap();
    let blueprint = Blueprint { options, source: Arc::new(source), random_weights: false };
    let mut config = blueprint.fleet_config();
    config.spawn = Spawn::Processes { program: env!("CARGO_BIN_EXE_binfer").into() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let facts = runtime.block_on(async {
        let (fleet, facts) = Fleet::start(config, rendezvous(), |_| ()).await.unwrap();
        fleet.stop("the test has seen enough").await;
        facts
    });
    (blueprint, facts.weight_bytes, facts.blocks)
}

#[test]
fn what_is_planned_is_what_workers_report() {
    let _permit = Permit::one();
    for (name, flags) in [
        ("qwen3", &["--dtype", "bf16"][..]),
        ("mistral", &["--kv-cache-tokens", "1000"]),
        ("llama-bias", &["--max-num-seqs", "3", "--max-model-len", "100"]),
    ] {
        for tp in ["1", "2", "3"] {
            let flags = [flags, &["--tp", tp]].concat();
            let (blueprint, weights, blocks) = reported(&tiny(name), &flags);
            let ledger = blueprint.ledger().unwrap();
            let planned: Vec<u64> = ledger.ranks.iter().map(|rank| rank.weight_bytes).collect();
            assert_eq!((planned, &ledger.kv_blocks), (weights, &blocks), "{name} {flags:?}");
        }
    }
}

#[test]
fn a_cache_that_workers_have_no_room_for_is_refused() {
    let args = Flags::parse_from(["binfer", "x", "--kv-cache-tokens", "1000", "--tp", "2"]).model;
    let source = Checkpoint::open(tiny("qwen3")).unwrap();
    let options = args.check("tiny".into(), &source).unwrap();
    let blueprint = Blueprint { options, source: Arc::new(source), random_weights: false };
    let facts = |blocks| FleetInfo {
        weight_bytes: vec![1, 1],
        blocks: vec![blocks],
        load_us: 1,
        memory: vec!["weights 9 MiB".into(); 2],
        notes: Vec::new(),
    };
    assert_eq!(blueprint.check_cache(&facts(16)), Ok(()));
    let words = blueprint.check_cache(&facts(15)).unwrap_err().to_string();
    assert!(words.starts_with("--kv-cache-tokens 1000: 960 fit beside"), "{words}");
    assert!(words.contains("weights 9 MiB") && words.contains("give fewer"), "{words}");
}

#[test]
fn plan_and_serve_keep_one_ledger() {
    let _permit = Permit::one();
    let path = tiny("qwen3");
    let path = path.to_str().unwrap();
    let planned = plan(&[path]);
    let run = Run::good(&["run", path, "x", "--max-tokens", "1", "--tp", "2"]);
    let two = &planned["plans"][1];
    let bytes = |key: &str| -> u64 {
        two["ranks"].as_array().unwrap().iter().map(|rank| rank[key].as_u64().unwrap()).sum()
    };
    let words = format!(
        "2 rank(s) x 1 thread(s), weights 0 + 0 MiB, activations {} MiB, \
         KV cache {} tokens in f32, {} MiB",
        bytes("activation_bytes").div_ceil(1 << 20),
        two["kv_tokens"],
        bytes("kv_bytes").div_ceil(1 << 20)
    );
    let cores = std::thread::available_parallelism().unwrap().get();
    let words = words.replace("x 1 thread", &format!("x {} thread", (cores / 2).max(1)));
    assert!(run.stderr.contains(&words), "{words}\n{}", run.stderr);
}

#[test]
fn a_model_on_the_hub_is_planned_before_anything_of_it_is_kept() {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hub-plan");
    let _ = std::fs::remove_dir_all(&home);
    for name in ["qwen3", "llama31"] {
        let server = HubServer::of_folder(&tiny(name));
        let remote = |args: &[&str]| {
            let output = binfer()
                .env("HF_HOME", &home)
                .env("HF_ENDPOINT", &server.endpoint)
                .env("NO_PROXY", "127.0.0.1")
                .env_remove("HF_HUB_CACHE")
                .env_remove("SSL_CERT_FILE")
                .args(args)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            output.stdout
        };
        let path = tiny(name);
        let (path, cut) = (path.to_str().unwrap(), ["--tp", "2", "--dry-run"]);
        let listing = remote(&[&["shard", REPOSITORY], &cut[..]].concat());
        let here = Run::good(&[&["shard", path], &cut[..]].concat()).stdout;
        assert_eq!(String::from_utf8(listing).unwrap().trim_end(), here.trim_end());
        let remote = remote(&["plan", REPOSITORY, "--json", "--gpu", "80GB"]);
        let remote: Value = serde_json::from_slice(&remote).unwrap();
        let local = plan(&[path, "--gpu", "80GB"]);
        assert_eq!((&remote["plans"], &remote["auto"]), (&local["plans"], &local["auto"]));
        assert!(!home.exists(), "something was kept");
        let seen = server.seen();
        let of_storage: Vec<_> = seen.iter().filter(|seen| seen.by_storage).collect();
        assert!(!of_storage.is_empty());
        for seen in of_storage {
            // Of weights the first 128 KiB at most, never the rest.
            let range = seen.range.as_deref().unwrap();
            let last: u64 = range.rsplit('-').next().unwrap().parse().unwrap();
            assert!(range.starts_with("bytes=0-") && last < 128 << 10, "{range}");
        }
    }
}

#[test]
fn shards_are_planned_for_their_ranks_alone() {
    let (scratch, path) = (Scratch::new("plan-shards"), tiny("qwen3"));
    let shards = scratch.arg("two");
    Run::good(&["shard", path.to_str().unwrap(), "-o", &shards, "--tp", "2"]);
    for flags in [&[][..], &["--gpu", "H100"]] {
        let planned = plan(&[&[shards.as_str()], flags].concat());
        let plans = planned["plans"].as_array().unwrap();
        assert_eq!(
            (plans.len(), &plans[0]["tp"], &planned["auto"]["tp"]),
            (1, &2.into(), &2.into())
        );
    }
}

#[test]
fn the_table_says_what_fits_and_what_cannot_be_cut() {
    let path = tiny("qwen3");
    let table = |gpu: &str, step: &str| {
        let flags = ["--gpu", gpu, "--gpus", "6", "--max-num-batched-tokens", step];
        let flags = [&flags[..], &["--max-num-seqs", "64"]].concat();
        Run::good(&[&["plan", path.to_str().unwrap()], &flags[..]].concat()).stdout
    };
    let fits = table("H100", "512");
    assert!(fits.contains("121.3 K parameters, BF16"), "{fits}");
    assert!(fits.contains("\n 1   yes ") && fits.contains("\n 4   yes "), "{fits}");
    assert!(fits.contains("TP 6: 6 ranks, but the model has only 4 query heads"), "{fits}");
    assert!(fits.contains("--tp auto: 1 (1 card holds weights and 512 positions)"), "{fits}");
    let small = table("1MiB", "8192");
    assert!(small.contains(" short ") && !small.contains("yes"), "{small}");
    assert!(small.contains("short of one full context; give more or larger cards"), "{small}");

    let refused = |args: &[&str], status: i32, words: &str| {
        let run = Run::of(&[&["plan", path.to_str().unwrap()], args].concat());
        assert_eq!(run.status.code(), Some(status), "{run:?}");
        assert!(run.stderr.contains(words), "{run:?}");
    };
    refused(&["--gpu", "much"], 2, "80GB");
    refused(&["--gpu", "H1000"], 2, "L40S");
    refused(&["--gpus", "0"], 2, "--gpus");
    refused(&["--context", "513"], 78, "1 to 512");
    refused(&["--bandwidth", "-1"], 2, "-1");
    let all = Run::of(&["run", path.to_str().unwrap(), "x", "--tp", "all"]);
    assert_eq!(all.status.code(), Some(78));
    assert!(all.stderr.contains("--tp all: there is no GPU"), "{all:?}");
}
