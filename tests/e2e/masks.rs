//! Masked steps, on real workers: what they draw, when, and what they refuse.

use std::path::PathBuf;
use std::time::Duration;

use binfer_proto::cluster::down;
use binfer_proto::{
    BlockId, Epoch, Input, KvGroup, Mask, Masks, NewBlocks, Open, Outputs, Plan, ReplicaId, Row,
    Rows, Sampling, SlotId, StepId, Token,
};

use crate::gpu;
use crate::harness::{Permit, repository};
use crate::rig::{TOKENS_PER_STEP, on_ranks_of};
use crate::workers::Workers;

/// Of the model: not a multiple of eight.
const VOCAB: u32 = 300;
const PROMPTS: [&[Token]; 3] = [&[5, 6, 7], &[200, 100], &[9]];

fn model() -> PathBuf {
    repository("tests/fixtures/tiny/qwen2")
}

/// The first step feeds prompts, one of them in a chunk that draws nothing; those behind it go on.
fn plan(step: u64, masked: bool) -> Plan {
    let slots = (0..).map(SlotId).zip(PROMPTS);
    let open = |(slot, prompt): (SlotId, &[Token])| Open {
        slot,
        sampling: Sampling::GREEDY,
        seed: 0,
        choice: 0,
        prompt_len: u32::try_from(prompt.len()).unwrap(),
        history: Vec::new(),
        biases: Vec::new(),
    };
    let new_blocks = |(slot, _): (SlotId, _)| NewBlocks {
        slot,
        kv_group: KvGroup(0),
        ids: vec![BlockId(slot.0)],
    };
    let row = |(slot, prompt): (SlotId, &[Token])| Row {
        slot,
        input: Input::Tokens(prompt.to_vec()),
        start: 0,
        outputs: if slot == SlotId(1) { Outputs::None } else { Outputs::Last },
        logprobs: 0,
    };
    let going_on = |(slot, prompt): (SlotId, &[Token])| Row {
        slot,
        input: if slot == SlotId(1) { Input::Tokens(vec![1]) } else { Input::LastSample },
        start: u32::try_from(prompt.len()).unwrap(),
        outputs: Outputs::Last,
        logprobs: 0,
    };
    let (mut opened, mut blocks) = (Vec::new(), Vec::new());
    let rows = match step {
        1 => {
            opened = slots.clone().map(open).collect();
            blocks = slots.clone().map(new_blocks).collect();
            Rows::List(slots.map(row).collect())
        }
        2 => Rows::List(slots.map(going_on).collect()),
        _ => Rows::Same,
    };
    let (replica, epoch, step) = (ReplicaId(0), Epoch(1), StepId(step));
    Plan { replica, epoch, step, close: Vec::new(), open: opened, blocks, rows, masked }
}

fn masks(step: u64, rows: Vec<Mask>) -> Masks {
    Masks { replica: ReplicaId(0), epoch: Epoch(1), step: StepId(step), rows }
}

fn send_plan(workers: &Workers, plan: &Plan) {
    workers.send(&down::Message::Plan(plan.into()));
}

fn send_masks(workers: &Workers, step: u64, rows: &[Mask]) {
    workers.send(&down::Message::Masks((&masks(step, rows.to_vec())).into()));
}

/// The tokens that a step drew, on which all ranks agree.
fn drawn(workers: &mut Workers, step: u64) -> Vec<Token> {
    let results = workers.results();
    for result in &results {
        assert_eq!(result.step, StepId(step));
        let known = (result.digest, result.plan_hash);
        assert_eq!(known, (results[0].digest, results[0].plan_hash), "step {step}");
    }
    results[0].rows.iter().flat_map(|row| row.tokens.iter().copied()).collect()
}

/// Of the first step's masks the first leaves two tokens and the second output has none; those of
/// the second step are for its second and third output.
fn step_masks() -> [Vec<Mask>; 2] {
    let third = (0..VOCAB).filter(|token| token.is_multiple_of(3));
    [vec![Mask::of(0, VOCAB, [17, 299])], vec![Mask::of(1, VOCAB, third), Mask::of(2, VOCAB, [42])]]
}

/// The same tokens out of the model's logits.
fn expected() -> [Vec<Token>; 2] {
    let best = |logits: &[f32], mask: Option<&Mask>| {
        let allowed = (0..VOCAB).filter(|token| mask.is_none_or(|mask| mask.allows(*token)));
        let better = |one: Token, next: Token| {
            if logits[next as usize] > logits[one as usize] { next } else { one }
        };
        allowed.reduce(better).unwrap()
    };
    on_ranks_of(&model(), 1, |rig| {
        assert!(PROMPTS.iter().all(|prompt| prompt.len() <= TOKENS_PER_STEP));
        let [first, second] = step_masks();
        let fed: Vec<_> = (0..).zip(PROMPTS.map(Some)).collect();
        let logits = rig.step(&fed);
        let one = [best(&logits[0].0, Some(&first[0])), best(&logits[2].0, None)];
        let logits = rig.step(&[(0, Some(&one[..1])), (1, Some(&[1])), (2, Some(&one[1..]))]);
        let masked = [None, Some(&second[0]), Some(&second[1])];
        let two = logits.iter().zip(masked).map(|((logits, _), mask)| best(logits, mask));
        [one.to_vec(), two.collect()]
    })
}

#[test]
fn a_step_draws_what_its_masks_allow_once_they_are_there() {
    let _permit = Permit::one();
    let (expected, [first, second]) = (expected(), step_masks());
    for world in [1, 2] {
        let mut workers = Workers::start(&model(), world);
        send_plan(&workers, &plan(1, true));
        send_plan(&workers, &plan(2, true));
        // The forward is over, nothing is drawn, and the next plan does not change that.
        workers.wait_until_all_at(1, "masks");
        send_masks(&workers, 1, &first);
        assert_eq!(drawn(&mut workers, 1), expected[0], "TP {world}");
        workers.wait_until_all_at(2, "masks");
        send_masks(&workers, 2, &second);
        send_plan(&workers, &plan(3, false));
        assert_eq!(drawn(&mut workers, 2), expected[1], "TP {world}");
        assert_eq!(drawn(&mut workers, 3).len(), 3);
        send_plan(&workers, &plan(4, true));
        send_masks(&workers, 4, &[Mask::of(0, VOCAB, [3])]);
        assert_eq!(drawn(&mut workers, 4)[0], 3);
        workers.stop();
        assert!(workers.statuses(Duration::from_secs(5)).iter().all(|status| status.success()));
    }
}

#[test]
fn workers_that_wait_for_masks_end_when_they_are_told_or_left() {
    let _permit = Permit::one();
    for (world, is_told) in [(1, true), (2, true), (2, false)] {
        let mut workers = Workers::start(&model(), world);
        send_plan(&workers, &plan(1, true));
        send_plan(&workers, &plan(2, true));
        workers.wait_until_all_at(1, "masks");
        if is_told {
            workers.stop();
        } else {
            workers.hang_up();
        }
        let statuses = workers.statuses(Duration::from_secs(1));
        assert!(!is_told || statuses.iter().all(|status| status.success()), "{statuses:?}");
    }
}

#[test]
fn a_gpu_draws_what_masks_allow_and_can_be_left_while_it_waits() {
    if !gpu::is_there() {
        return;
    }
    let _permit = Permit::alone();
    let [first, second] = step_masks();
    for is_told in [true, false] {
        let mut workers = Workers::start_on_gpu(&model());
        send_plan(&workers, &plan(1, true));
        send_plan(&workers, &plan(2, true));
        workers.wait_until_all_at(1, "masks");
        send_masks(&workers, 1, &first);
        let one = drawn(&mut workers, 1);
        assert!(one.len() == 2 && first[0].allows(one[0]), "{one:?}");
        // From here on out of recordings.
        workers.wait_until_all_at(2, "masks");
        send_masks(&workers, 2, &second);
        let two = drawn(&mut workers, 2);
        assert!(two.len() == 3 && second[0].allows(two[1]) && two[2] == 42, "{two:?}");
        send_plan(&workers, &plan(3, true));
        send_plan(&workers, &plan(4, false));
        workers.wait_until_all_at(3, "masks");
        if is_told {
            workers.stop();
        } else {
            workers.hang_up();
        }
        workers.statuses(Duration::from_secs(2));
    }
}

/// What a worker says of the last of these messages, and ends for.
fn refusal(messages: &[down::Message]) -> String {
    let mut workers = Workers::start(&model(), 1);
    messages.iter().for_each(|message| workers.send(message));
    let cause = workers.failure();
    workers.stop();
    workers.statuses(Duration::from_secs(5));
    cause
}

#[test]
fn masks_that_no_step_can_have_end_the_worker_by_name() {
    let _permit = Permit::one();
    let mut silent = plan(1, true);
    if let Rows::List(rows) = &mut silent.rows {
        rows.iter_mut().for_each(|row| row.outputs = Outputs::None);
    }
    let idle = refusal(&[down::Message::Plan((&silent).into())]);
    assert_eq!(idle, "step 1: masked, but no row samples a token");
    let plan = |step, masked| down::Message::Plan((&plan(step, masked)).into());
    let masks = |step, rows: &[Mask]| down::Message::Masks((&masks(step, rows.to_vec())).into());
    let unasked = refusal(&[plan(1, false), masks(1, &[])]);
    assert_eq!(unasked, "masks of step 1: no step waits for masks");
    let twice = refusal(&[plan(1, true), masks(1, &[]), masks(1, &[])]);
    assert_eq!(twice, "masks of step 1: no step waits for masks");
    let early = refusal(&[plan(1, true), plan(2, true), masks(2, &[])]);
    let due = "replica 0 epoch 1 came where replica 0 epoch 1 step 1 waits";
    assert_eq!(early, format!("masks of step 2: {due}"));
    let outside = refusal(&[plan(1, true), masks(1, &[Mask::of(2, VOCAB, [0])])]);
    assert_eq!(outside, "masks of step 1: output 2 is not below 2");
    let short = refusal(&[plan(1, true), masks(1, &[Mask::of(0, VOCAB - 8, [0])])]);
    assert_eq!(short, "masks of step 1: output 0: 37 bytes of bits where 38 are due");
    let many = refusal(&[plan(1, true), plan(2, true), plan(3, true)]);
    assert_eq!(many, "step 3: came while step 2 waits for masks of the one before");
}
