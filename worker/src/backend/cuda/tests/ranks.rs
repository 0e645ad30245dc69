//! Several ranks as processes on one card: sums, gathered logits and whole models, out of
//! CUDA graphs, against transformers in single precision.
//!
//! Each rank is this test binary again, told by its environment which test it plays a part in. NCCL
//! takes each for a host of its own; an all-reduce then takes milliseconds, so models are tiny.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use binfer_proto::{SlotId, Token};
use serde_json::Value;

use super::goldens::{bound, feed, relative};
use super::mixtures::{self, Forced};
use super::tiny::{Tiny, What, fixture, table};
use super::{Half, Piece, TOKENS, batch, is_sanitized, output, rank_sampling, settings};
use crate::backend::args::{Tensor, TensorKind};
use crate::backend::cuda::CudaSettings;
use crate::backend::{RankDevice, StepMode};
use crate::batch::TokenInput;

/// How a process learns which rank it is, of how many, with which checkpoint.
const ROLE: &str = "BINFER_TEST_RANK";
/// What a rank's lines for its parent begin with; the test harness writes others.
const MARK: &str = "rank says ";
/// Tokens sampled after a prompt.
const DRAWN: usize = 24;
/// Rows that decode together.
const ROWS: usize = 3;

/// Longest prompt of a mixture, each of whose tokens is a step.
const MIXTURE_PROMPT: usize = 17;

/// Mixtures that lie on two ranks.
const RANKS_2: [&str; 3] = ["qwen2-moe", "gpt-oss-mxfp4", "deepseek-v2"];
/// Mixtures that lie on three ranks, by which their experts do not divide.
const RANKS_3: [&str; 3] = ["mixtral", "gpt-oss-mxfp4", "deepseek-v3-fp8"];

/// Tells the parent.
pub(super) fn say(what: &str) {
    println!("{MARK}{what}");
}

/// Ends a rank: a communicator must not go while a peer still needs it.
fn wait_for_end() {
    say("done");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

/// The checkpoint as one rank's, with the communicator that the parent passes on.
fn join(settings: CudaSettings, what: What, rank: usize) -> Tiny {
    let world = settings.world;
    Tiny::of_rank(super::backend(settings), what, rank, |backend| {
        if rank == 0 {
            let id = backend.comm_id(world).unwrap();
            say(&format!("id {}", serde_json::to_string(&id).unwrap()));
        }
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        let id: Vec<u8> = serde_json::from_str(&line).unwrap();
        let _ = backend.join(&id, rank, world).unwrap();
    })
}

/// What a process does that is a rank; nothing in the process that runs all tests.
#[test]
fn a_rank_plays_its_part() {
    let Ok(role) = std::env::var(ROLE) else {
        eprintln!("skipped: it is a part of the tests beside it");
        return;
    };
    let (rank, world, name): (usize, usize, String) = serde_json::from_str(&role).unwrap();
    let settings = CudaSettings { world, ..settings(Half::Bf16).unwrap() };
    let what =
        if name.is_empty() { What::Published(64) } else { What::Fixture(name.clone().leak()) };
    let mut tiny = join(settings, what, rank);
    check_sums(&mut tiny, rank, world);
    draw_together(&mut tiny);
    if name.is_empty() {
        return wait_for_end();
    }
    if mixtures::is_mixture(&name) {
        let logits = Forced::new(&mut tiny, &name).check_logits(MIXTURE_PROMPT);
        say(&format!("logits {:x}", xxhash_rust::xxh3::xxh3_64(&bytes(&logits))));
        return wait_for_end();
    }
    rank_sampling::check(&mut tiny, &name);
    let text = std::fs::read_to_string(fixture(&name).join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    for (slot, case) in golden["prompts"].as_array().unwrap().iter().enumerate() {
        check_case(&mut tiny, &name, slot, case);
    }
    wait_for_end();
}

/// Every rank's `x` is the sum of all of them, of any size, twice.
fn check_sums(tiny: &mut Tiny, rank: usize, world: usize) {
    for (index, rows) in TOKENS.into_iter().chain([512, 8192]).enumerate() {
        let x = Tensor { offset: 0, rows, cols: [1, 3, 5][index % 3], kind: TensorKind::Sum };
        let mine = |at: usize| (at % 251) as f32 + 1000.0 * rank as f32;
        let bytes: Vec<u8> = (0..x.len()).flat_map(|at| mine(at).to_le_bytes()).collect();
        let ranks = (0..world).sum::<usize>() as f32;
        let want = |at: usize| world as f32 * (at % 251) as f32 + 1000.0 * ranks;
        for _ in 0..2 {
            let (memory, stream) = (&tiny.backend.memory, &tiny.backend.device.stream);
            memory.arena.write(0, &bytes, stream).unwrap();
            let address = tiny.backend.memory.arena.address() + 4 * x.offset as u64;
            let (on, collectives) = (tiny.backend.launcher(), &tiny.backend.collectives);
            collectives.sum(&on, "test", (address, &x)).unwrap();
            let got = tiny.backend.read(x).unwrap();
            assert!(got.iter().enumerate().all(|(at, got)| *got == want(at)), "{x:?}");
        }
    }
}

/// A prompt's logits, and the tokens after it, each fed to the next step.
fn check_case(tiny: &mut Tiny, name: &str, slot: usize, case: &Value) {
    let tokens: Vec<Token> = serde_json::from_value(case["prompt_ids"].clone()).unwrap();
    let want: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
    let largest = want.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let got = feed(tiny, slot, (0, &tokens), tokens.len());
    let error = relative(&got, &want);
    say(&format!("{name}, {} tokens: {error:.5}", tokens.len()));
    assert!(error <= bound(name), "{name}: {error} where {} is allowed", bound(name));
    say(&format!("logits {:x}", xxhash_rust::xxh3::xxh3_64(&bytes(&got))));
    let ids: Vec<Token> = serde_json::from_value(case["ids"].clone()).unwrap();
    let gaps: Vec<f32> = serde_json::from_value(case["gaps"].clone()).unwrap();
    let mut clear = 0;
    for (index, (fed, next)) in ids.iter().zip(&ids[1..]).enumerate() {
        let start = tokens.len() + index;
        let piece = Piece { slot: slot as u32, start, tokens: vec![*fed], table: table(slot) };
        let mut step = batch(&[piece]);
        step.outputs = vec![output(slot as u32, 0, start as u32 + 1)];
        let (mode, outcome, _) = tiny.step(step);
        assert_eq!(mode, StepMode::Graph);
        // Both of the two best logits may be off.
        if gaps[index + 1] > 2.0 * bound(name) * largest {
            clear += 1;
            assert_eq!(outcome.sampled[0].token, *next, "{name}, token {}", index + 1);
        }
        say(&format!("digest {:x}", outcome.digest));
    }
    assert!(clear > 0, "{name}: no token is clear");
}

/// Several rows sample, each going on from what it sampled.
fn draw_together(tiny: &mut Tiny) {
    for step in 0..DRAWN {
        let piece = |slot: usize| Piece {
            slot: slot as u32,
            start: step,
            tokens: vec![slot as Token],
            table: table(slot),
        };
        let mut batch = batch(&(0..ROWS).map(piece).collect::<Vec<_>>());
        if step > 0 {
            batch.tokens =
                (0..ROWS).map(|slot| TokenInput::LastSample(SlotId(slot as u32))).collect();
        }
        batch.outputs = (0..ROWS).map(|slot| output(slot as u32, slot, step as u32 + 1)).collect();
        batch.outputs.iter_mut().for_each(|output| output.sampling.temperature = 1.0);
        let (mode, outcome, _) = tiny.step(batch);
        assert_eq!(mode, StepMode::Graph);
        assert!(outcome.sampled.iter().all(|sampled| sampled.finite));
        say(&format!("sampled {:?} digest {:x}", outcome.sampled, outcome.digest));
    }
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// A rank's process and what it says.
struct Rank {
    process: Child,
    input: ChildStdin,
    lines: Box<dyn Iterator<Item = String> + Send>,
}

impl Rank {
    fn start(rank: usize, world: usize, name: &str) -> Self {
        let role = serde_json::to_string(&(rank, world, name)).unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "backend::cuda::tests::ranks::a_rank_plays_its_part", "--nocapture"])
            .env(ROLE, role)
            .env("NCCL_HOSTID", format!("binfer-test-{rank}"))
            .env("NCCL_SOCKET_IFNAME", "lo")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let said = |line: String| Some(line.split_once(MARK)?.1.to_owned());
        Self { process, input, lines: Box::new(lines.filter_map(said)) }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }
}

/// Runs a checkpoint on so many ranks; all must say the same.
fn run_ranks(world: usize, name: &str) {
    let mut ranks: Vec<Rank> = (0..world).map(|rank| Rank::start(rank, world, name)).collect();
    let first = ranks[0].lines.next().unwrap_or_default();
    let id = first.strip_prefix("id ").expect("rank 0 names the communicator").to_owned();
    ranks.iter_mut().for_each(|rank| rank.tell(&id));
    let said: Vec<Vec<String>> = thread::scope(|scope| {
        let listen = |rank: &'_ mut Rank| -> Vec<String> {
            rank.lines.by_ref().take_while(|line| line != "done").collect()
        };
        let all: Vec<_> = ranks.iter_mut().map(|rank| scope.spawn(move || listen(rank))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for (number, mut rank) in ranks.into_iter().enumerate() {
        rank.tell("");
        assert!(rank.process.wait().unwrap().success(), "{name}: rank {number} of {world} failed");
    }
    said[0]
        .iter()
        .filter(|line| line.contains(name))
        .for_each(|line| eprintln!("TP {world} {line}"));
    assert!(said[0].len() >= DRAWN, "{said:?}");
    assert!(said.iter().all(|one| *one == said[0]), "{name}: ranks of {world} differ: {said:?}");
}

/// Whether there is a GPU. Sanitizers do not watch processes of processes.
fn is_there() -> bool {
    if is_sanitized() {
        eprintln!("skipped: sanitized");
    }
    settings(Half::Bf16).is_some() && !is_sanitized()
}

#[test]
fn two_ranks_on_one_card_equal_transformers() {
    if is_there() {
        ["qwen3", "qwen2", "llama31"].iter().for_each(|name| run_ranks(2, name));
    }
}

/// Heads, feed-forward and vocabulary do not divide by three; two KV heads are shared.
#[test]
fn three_ranks_on_one_card_equal_transformers() {
    if is_there() {
        ["qwen3", "llama31"].iter().for_each(|name| run_ranks(3, name));
    }
}

/// Each rank has whole experts, packed ones as they come.
#[test]
fn mixtures_on_ranks_of_one_card_equal_transformers() {
    if !is_there() {
        return;
    }
    for (world, names) in [(2, RANKS_2), (3, RANKS_3)] {
        names.iter().for_each(|name| run_ranks(world, name));
    }
}

/// Random weights, which no golden knows, on kernels for published shapes.
#[test]
fn ranks_with_fast_kernels_agree() {
    if is_there() {
        run_ranks(2, "");
    }
}
