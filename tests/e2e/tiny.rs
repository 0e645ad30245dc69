//! The tiny checkpoints in `tests/fixtures/tiny` and `tests/fixtures/mixtures` against
//! transformers, at every rank count.
//!
//! Each stands for a family or a feature; the scripts there made sure that its golden notices when
//! the feature is missing. Prompts are longer than windows and than original rope lengths.

use std::path::{Path, PathBuf};

use binfer_proto::Token;
use binfer_shard::Checkpoint;
use serde_json::Value;

use crate::harness::{Permit, Scratch, repository};
use crate::rig::{TOKENS_PER_STEP, on_ranks_of};

/// Largest difference of a logit, relative to the largest logit. Dense families: 1.5e-6.
const BOUND: f32 = 1e-5;
/// Divides no long prompt, no window and no block.
const CHUNK: usize = 7;

/// A prompt, the logits after its last token, and the greedy tokens that follow.
pub(crate) struct Case {
    pub(crate) prompt_ids: Vec<Token>,
    pub(crate) logits: Vec<f32>,
    ids: Vec<Token>,
    /// Positions of a sequence, where its rope scaling follows from that.
    pub(crate) longest: Option<u32>,
}

/// Folders with a checkpoint and its golden, by name.
pub(crate) fn folders() -> Vec<PathBuf> {
    let sets = ["tests/fixtures/tiny", "tests/fixtures/mixtures"].map(repository);
    let entries = sets.iter().flat_map(|set| std::fs::read_dir(set).unwrap());
    let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.join("golden.json").is_file());
    folders.sort();
    assert!(folders.len() >= 25, "{folders:?}");
    folders
}

/// The checkpoint in a folder: a GGUF file, or the folder.
pub(crate) fn checkpoint(folder: &Path) -> PathBuf {
    let gguf = folder.join("model.gguf");
    if gguf.is_file() { gguf } else { folder.to_owned() }
}

pub(crate) fn cases(folder: &Path) -> Vec<Case> {
    let text = std::fs::read_to_string(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let list = |value: &Value| serde_json::from_value(value.clone()).unwrap();
    let case = |prompt: &Value| Case {
        prompt_ids: list(&prompt["prompt_ids"]),
        logits: serde_json::from_value(prompt["logits"].clone()).unwrap(),
        ids: list(&prompt["ids"]),
        longest: prompt["longest"].as_u64().map(|longest| u32::try_from(longest).unwrap()),
    };
    let cases: Vec<_> = golden["prompts"].as_array().unwrap().iter().map(case).collect();
    let lengths: Vec<_> = cases.iter().map(|case| case.prompt_ids.len()).collect();
    assert_eq!(lengths, [1, 17, 200], "{}", folder.display());
    cases
}

/// What one rank count makes of a case.
struct Outcome {
    logits: Vec<f32>,
    /// Of the same prompt in chunks.
    chunked: Vec<f32>,
    ids: Vec<Token>,
}

fn outcomes(folder: &Path, world: usize, cases: &[Case]) -> Vec<Outcome> {
    on_ranks_of(&checkpoint(folder), world, |rig| {
        let outcome = |case: &Case| {
            rig.limit_positions(case.longest);
            let (chunked, _) = rig.feed(0, &case.prompt_ids, CHUNK);
            rig.close(0);
            rig.shuffle();
            let (logits, first) = rig.feed(1, &case.prompt_ids, TOKENS_PER_STEP);
            let mut ids = vec![first];
            ids.extend((1..case.ids.len()).map(|_| rig.step(&[(1, None)]).remove(0).1));
            rig.close(1);
            Outcome { logits, chunked, ids }
        };
        cases.iter().map(outcome).collect()
    })
}

/// Checks that the checkpoint's shards give the same bits.
fn check_shards(
    folder: &Path,
    world: usize,
    scratch: &Scratch,
    (cases, plain): (&[Case], &[Outcome]),
) {
    let shards = scratch.file("shards");
    let source = Checkpoint::open(checkpoint(folder)).unwrap();
    binfer_shard::shards::write(&source, u32::try_from(world).unwrap(), &shards, |_| true).unwrap();
    for (sharded, plain) in outcomes(&shards, world, cases).iter().zip(plain) {
        let what = format!("shards of {}, TP {world}", folder.display());
        assert!(sharded.logits == plain.logits && sharded.ids == plain.ids, "{what}");
    }
    std::fs::remove_dir_all(shards).unwrap();
}

pub(crate) fn largest(numbers: impl Iterator<Item = f32>) -> f32 {
    numbers.map(f32::abs).fold(0.0, f32::max)
}

fn check_all(is_mine: fn(&Path) -> bool, test: &str) {
    let _permit = Permit::one();
    let scratch = Scratch::new(test);
    for folder in folders().into_iter().filter(|folder| is_mine(folder)) {
        let cases = cases(&folder);
        let name = folder.file_name().unwrap().display();
        for world in 1..=4 {
            let outcomes = outcomes(&folder, world, &cases);
            check_shards(&folder, world, &scratch, (&cases[..2], &outcomes[..2]));
            for (case, outcome) in cases.iter().zip(outcomes) {
                let what = format!("{name}, {} tokens, TP {world}", case.prompt_ids.len());
                let Outcome { logits, chunked, ids } = outcome;
                assert_eq!(logits.len(), case.logits.len(), "{what}");
                let pairs = logits.iter().zip(&case.logits);
                let difference = largest(pairs.map(|(one, other)| one - other));
                let relative = difference / largest(case.logits.iter().copied());
                // Not `>`: a NaN must fail.
                assert!(relative <= BOUND, "{what}: logits off by {relative}");
                assert!(logits == chunked, "{what}: other bits in chunks of {CHUNK}");
                assert_eq!(ids, case.ids, "{what}");
            }
        }
    }
}

fn is_mixture(folder: &Path) -> bool {
    folder.starts_with(repository("tests/fixtures/mixtures"))
}

#[test]
fn every_dense_family_equals_transformers_at_every_rank_count() {
    check_all(|folder| !is_mixture(folder), "tiny");
}

#[test]
fn every_mixture_equals_transformers_at_every_rank_count() {
    check_all(is_mixture, "mixtures");
}
