//! What a plan may ask of sampling, and that none of it is lost on the way.

mod carried;

use crate::cluster as pb;
use crate::*;

fn plan(open: Open, logprobs: u8) -> Plan {
    let row = Row {
        slot: SlotId(1),
        input: Input::Tokens(vec![3, 4]),
        start: 0,
        outputs: Outputs::Last,
        logprobs,
    };
    Plan {
        replica: ReplicaId(0),
        epoch: Epoch(1),
        step: StepId(1),
        close: Vec::new(),
        open: vec![open],
        blocks: Vec::new(),
        rows: Rows::List(vec![row]),
        masked: false,
    }
}

fn open() -> Open {
    Open {
        slot: SlotId(1),
        sampling: Sampling {
            temperature: 0.5,
            top_k: 7,
            top_p: 0.75,
            min_p: 0.125,
            repetition_penalty: 1.25,
            presence_penalty: -1.5,
            frequency_penalty: 2.0,
        },
        seed: 9,
        choice: 0,
        prompt_len: 2,
        history: vec![3, 4, 5],
        biases: vec![Bias { token: 0, value: -100.0 }, Bias { token: 49, value: 0.5 }],
    }
}

fn refusal(plan: &Plan) -> String {
    let limits = PlanLimits { slots_max: 2, tokens_per_step_max: 8, vocab: 50, blocks: Vec::new() };
    plan.check(&limits).map_or_else(|error| error.cause, |()| String::new())
}

#[test]
fn what_changes_the_draw_survives_the_wire_and_counts_in_the_hash() {
    let plan = plan(open(), 21);
    assert_eq!(refusal(&plan), "");
    assert_eq!(Plan::try_from(pb::Plan::from(&plan)).unwrap(), plan);
    let hash = |open: Open| self::plan(open, 21).hash(&[]);
    let changes: [fn(&mut Open); 5] = [
        |open| open.sampling.min_p = 0.25,
        |open| open.history.push(1),
        |open| open.biases[0].token = 1,
        |open| open.biases[1].value = 0.25,
        |open| open.biases.truncate(1),
    ];
    for change in changes {
        let mut other = open();
        change(&mut other);
        assert_ne!(hash(other), hash(open()));
    }
}

#[test]
fn what_no_worker_could_do_is_refused_by_name() {
    let sampling = |change: fn(&mut Sampling)| {
        let mut open = open();
        change(&mut open.sampling);
        refusal(&plan(open, 0))
    };
    assert_eq!(sampling(|s| s.min_p = 1.5), "slot 1: min_p 1.5 is not from 0 to 1");
    let zero = sampling(|s| s.repetition_penalty = 0.0);
    assert_eq!(zero, "slot 1: repetition_penalty 0 is not from 0.01 to 100");
    assert!(sampling(|s| s.presence_penalty = f32::NAN).contains("presence_penalty NaN"));
    assert!(sampling(|s| s.frequency_penalty = -2.1).contains("frequency_penalty -2.1"));

    let opened = |change: fn(&mut Open)| {
        let mut open = open();
        change(&mut open);
        refusal(&plan(open, 0))
    };
    let short = opened(|open| open.history.truncate(1));
    assert_eq!(short, "slot 1: a history of 1 tokens, the prompt has 2");
    assert_eq!(opened(|open| open.history[0] = 50), "token 50 is not below 50");
    assert!(opened(|open| open.biases[1].token = 50).contains("logit_bias has token 50, not one"));
    assert!(opened(|open| open.biases[1].value = f32::NAN).contains("is NaN, not from"));
    assert!(opened(|open| open.biases.reverse()).contains("has token 0 after a larger one"));
    let twice = opened(|open| open.biases = vec![open.biases[1]; 2]);
    assert_eq!(twice, "slot 1: logit_bias has token 49 twice");
    let many = opened(|open| open.biases = vec![open.biases[0]; 301]);
    assert!(many.contains("has 301 tokens"), "{many}");
    assert_eq!(refusal(&plan(open(), 22)), "slot 1: 22 logprobs are too many");
}

#[test]
fn logprobs_of_rows_come_back_to_their_rows() {
    let row = |logprobs: &[(Token, f32)]| RowResult {
        status: RowStatus::Ok,
        tokens: Tokens::from_slice(&[1]),
        logprobs: logprobs.iter().map(|&(token, logprob)| Logprob { token, logprob }).collect(),
    };
    let result = StepResult {
        replica: ReplicaId(0),
        epoch: Epoch(1),
        step: StepId(1),
        rank: Rank(0),
        plan_hash: 1,
        digest: 2,
        rows: vec![row(&[(1, -0.5)]), row(&[]), row(&[(1, -0.5), (2, -0.75), (3, -1.0)])],
        step_us: 3,
    };
    let mut sent = pb::StepResult::from(&result);
    assert_eq!(StepResult::try_from(sent.clone()).unwrap(), result);
    sent.rows.as_mut().unwrap().logprob_tokens.pop();
    let error = StepResult::try_from(sent).unwrap_err();
    assert_eq!(error.to_string(), "step 1: 4 logprobs of 3 tokens");
}
