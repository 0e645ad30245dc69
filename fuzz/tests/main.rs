//! Runs every target on its seeds and on simple changes of them.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "numbers are small, a panic is a failed test"
)]

#[path = "../../shard-tool/tests/support/gguf_writer.rs"]
mod gguf_writer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use binfer_fuzz::{FuzzTarget, TARGETS};
use binfer_proto::cluster::{Down, Up, down, up};
use binfer_proto::{
    BlockId, Epoch, Input, KvGroup, Mask, Masks, NewBlocks, Open, Outputs, Plan, ReplicaId, Row,
    RowResult, RowStatus, Rows, Sampling, SlotId, StepId, StepResult, cluster,
};
use binfer_shard::Checkpoint;
use prost::Message;

use gguf_writer::{F32, TINY};

/// The changes of each seed.
const CHANGES: u64 = 40;
/// The time that a target may take for all changes of its seeds.
const BUDGET: Duration = Duration::from_secs(1);

fn seeds(target: &FuzzTarget) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name);
    let mut paths: Vec<PathBuf> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn every_target_takes_its_seeds_and_changes_of_them() {
    for target in TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (path, bytes) in &seeds {
            assert!(bytes.len() <= target.bytes_max, "{} is too long", path.display());
            (target.run)(bytes);
        }
        let (begun, mut random) = (Instant::now(), 0x9e37_79b9_7f4a_7c15_u64);
        for change in 0..CHANGES {
            for (_, bytes) in &seeds {
                if begun.elapsed() > BUDGET {
                    break;
                }
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(change | 1);
                (target.run)(&changed(bytes, random));
            }
        }
    }
}

/// The bytes after one change: cut short, or with some bytes removed, repeated or replaced.
fn changed(bytes: &[u8], random: u64) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let pick = |shift: u32, below: usize| (random >> shift) as usize % below.max(1);
    let (at, len) = (pick(8, out.len()), 1 + pick(40, 8));
    match random >> 61 {
        0 => out.truncate(at),
        1 => _ = out.drain(at..(at + len).min(bytes.len())),
        2 => {
            let piece: Vec<u8> = bytes[at..].iter().take(64 * len).copied().collect();
            out.splice(at..at, piece);
        }
        3 => out.iter_mut().skip(at).take(len).for_each(|byte| *byte = 0xff),
        4 => out.iter_mut().skip(at).take(1).for_each(|byte| *byte = b"\"{}[],:0-9e\\"[len]),
        _ => out.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (random & 7)),
    }
    out
}

fn step(number: u64, open: Vec<Open>, rows: Rows) -> Plan {
    let new_blocks = NewBlocks { slot: SlotId(0), kv_group: KvGroup(0), ids: vec![BlockId(3)] };
    Plan {
        replica: ReplicaId(1),
        epoch: Epoch(1),
        step: StepId(number),
        close: Vec::new(),
        blocks: if open.is_empty() { Vec::new() } else { vec![new_blocks] },
        open,
        rows,
        masked: false,
    }
}

/// A prompt, a step for its next token, and the same again.
fn plans() -> Vec<Plan> {
    let open = Open {
        slot: SlotId(0),
        sampling: Sampling { temperature: 0.7, top_p: 0.9, ..Sampling::GREEDY },
        seed: 7,
        choice: 0,
        prompt_len: 3,
        history: Vec::new(),
        biases: Vec::new(),
    };
    let row =
        |input, start| Row { slot: SlotId(0), input, start, outputs: Outputs::Last, logprobs: 0 };
    let prompt = row(Input::Tokens(vec![5, 6, 7]), 0);
    let next = row(Input::LastSample, 3);
    vec![
        step(1, vec![open], Rows::List(vec![prompt])),
        step(2, Vec::new(), Rows::List(vec![next])),
        step(3, Vec::new(), Rows::Same),
    ]
}

/// Seeds that no person can write are there; `UPDATE_SEEDS=1 cargo test -p binfer-fuzz` writes
/// them.
#[test]
fn binary_seeds_are_there() {
    let update = std::env::var_os("UPDATE_SEEDS").is_some();
    let write = |name: &str, bytes: Vec<u8>| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
        if update {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        assert!(path.is_file(), "{}: run with UPDATE_SEEDS=1", path.display());
    };
    let down = |message| Down { message: Some(message) }.encode_length_delimited_to_vec();
    let plans = plans();
    let plans: Vec<u8> =
        plans.iter().flat_map(|plan| down(down::Message::Plan(plan.into()))).collect();
    write("wire/plans", plans);
    let result = StepResult {
        replica: ReplicaId(1),
        epoch: Epoch(1),
        step: StepId(1),
        rank: binfer_proto::Rank(0),
        plan_hash: 1,
        digest: 2,
        rows: vec![RowResult {
            status: RowStatus::Ok,
            tokens: [9].into_iter().collect(),
            logprobs: vec![binfer_proto::Logprob { token: 9, logprob: -0.5 }],
        }],
        step_us: 3,
    };
    let up = Up { message: Some(up::Message::Result((&result).into())) };
    write("wire/result", up.encode_length_delimited_to_vec());
    let rows = vec![Mask::of(0, 44, [1, 40]), Mask::of(2, 44, [43])];
    let masks = Masks { replica: ReplicaId(1), epoch: Epoch(1), step: StepId(1), rows };
    let message = cluster::Masks::from(&masks);
    write("wire/masks", down(down::Message::Masks(message.clone())));
    write("masks/two", [&[4, 43][..], &message.encode_to_vec()].concat());
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny/llama31");
    let shards = std::env::temp_dir().join(format!("binfer-seeds-{}", std::process::id()));
    binfer_shard::shards::write(&Checkpoint::open(tiny).unwrap(), 2, &shards, |_| true).unwrap();
    let manifest = std::fs::read(shards.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    write("manifest/whole.json", manifest.to_string().into_bytes());
    std::fs::remove_dir_all(shards).unwrap();
    let mut writer = TINY.writer();
    write("gguf/tiny", even(writer.header()));
    writer.string("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0);
    writer.strings("tokenizer.ggml.merges", &["a b"]).string("tokenizer.ggml.model", "gpt2");
    writer.tensor("rope_freqs.weight", &[8], F32);
    write("gguf/yarn", even(writer.header()));
}

/// The target puts data behind headers of an even length.
fn even(mut header: Vec<u8>) -> Vec<u8> {
    if !header.len().is_multiple_of(2) {
        header.push(0);
    }
    header
}
