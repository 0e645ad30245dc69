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
    let limits = PlanLimits { slots_max: 2, tokens_per_step_max: 8, vocab: 50, blocks: vec![4] };
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

/// A plan that is fine, changed.
fn changed(change: fn(&mut Plan)) -> String {
    let mut plan = plan(open(), 0);
    plan.blocks = vec![NewBlocks {
        slot: SlotId(1),
        kv_group: KvGroup(0),
        ids: vec![BlockId(0), BlockId(3)],
    }];
    change(&mut plan);
    refusal(&plan)
}

fn row(plan: &mut Plan) -> &mut Row {
    match &mut plan.rows {
        Rows::List(rows) => &mut rows[0],
        Rows::Same => panic!("a plan with rows"),
    }
}

#[test]
fn what_does_not_exist_or_comes_twice_is_refused() {
    assert_eq!(changed(|_| ()), "");
    assert_eq!(changed(|plan| plan.close = vec![SlotId(0), SlotId(1)]), "");
    assert_eq!(changed(|plan| plan.close = vec![SlotId(2)]), "slot 2 is not below 2");
    assert_eq!(changed(|plan| plan.close = vec![SlotId(1); 2]), "slot 1 is closed twice");
    assert_eq!(changed(|plan| plan.open[0].slot = SlotId(2)), "slot 2 is not below 2");
    let twice = changed(|plan| plan.open.push(plan.open[0].clone()));
    assert_eq!(twice, "slot 1 is opened twice");
    assert_eq!(changed(|plan| plan.blocks[0].slot = SlotId(2)), "slot 2 is not below 2");
    let missing = changed(|plan| plan.blocks[0].kv_group = KvGroup(1));
    assert_eq!(missing, "KV group 1 does not exist");
    let past = changed(|plan| plan.blocks[0].ids.push(BlockId(4)));
    assert_eq!(past, "block 4 of KV group 0 is not below 4");
    assert_eq!(changed(|plan| row(plan).slot = SlotId(2)), "slot 2 is not below 2");
    let twice = changed(|plan| {
        let row = row(plan).clone();
        plan.rows = Rows::List(vec![row; 2]);
    });
    assert_eq!(twice, "slot 1 is run twice");
}

#[test]
fn rows_have_tokens_that_exist_and_no_more_than_a_step_takes() {
    let fed = |tokens: Vec<Token>| {
        let mut plan = plan(open(), 0);
        row(&mut plan).input = Input::Tokens(tokens);
        refusal(&plan)
    };
    assert_eq!(fed(vec![49; 8]), "");
    assert_eq!(fed(vec![49; 9]), "9 tokens are more than 8");
    assert_eq!(fed(vec![50]), "token 50 is not below 50");
    assert_eq!(fed(Vec::new()), "slot 1: a row without tokens");
    assert_eq!(changed(|plan| row(plan).input = Input::LastSample), "");
    let few = PlanLimits { slots_max: 2, tokens_per_step_max: 8, vocab: 5, blocks: Vec::new() };
    let logprobs = |logprobs| {
        let open = Open { history: vec![3, 4], biases: Vec::new(), ..open() };
        plan(open, logprobs).check(&few)
    };
    assert_eq!(logprobs(6), Ok(()), "the sampled token and all five");
    assert_eq!(logprobs(7).unwrap_err().cause, "slot 1: 7 logprobs are too many");
    let all = changed(|plan| row(plan).outputs = Outputs::All);
    assert_eq!(all, "slot 1: outputs for all inputs are not in this version");
}

#[test]
fn the_bounds_of_sampling_parameters_are_allowed_and_nothing_beyond() {
    let error = |change: &dyn Fn(&mut Sampling)| {
        let mut sampling = Sampling::GREEDY;
        change(&mut sampling);
        sampling.check().map_or_else(|error| error.to_string(), |()| String::new())
    };
    for (least, most, set) in [
        (0.0, f32::MAX, (|s, v| s.temperature = v) as fn(&mut Sampling, f32)),
        (f32::MIN_POSITIVE, 1.0, |s, v| s.top_p = v),
        (0.0, 1.0, |s, v| s.min_p = v),
        (0.01, 100.0, |s, v| s.repetition_penalty = v),
        (-2.0, 2.0, |s, v| s.presence_penalty = v),
        (-2.0, 2.0, |s, v| s.frequency_penalty = v),
    ] {
        assert_eq!(error(&|s| set(s, least)), "");
        assert_eq!(error(&|s| set(s, most)), "");
        for beyond in [least - 0.01, most * 1.01, f32::NAN, f32::INFINITY] {
            assert_ne!(error(&|s| set(s, beyond)), "", "{beyond} between {least} and {most}");
        }
    }
    assert_eq!(error(&|s| s.temperature = -1.0), "temperature -1 is not 0 or more");
    assert_eq!(error(&|s| s.top_p = 0.0), "top_p 0 is not above 0 and at most 1");
    let greedy = Sampling { top_p: 0.0, temperature: 0.7, ..Sampling::GREEDY }.checked().unwrap();
    assert_eq!((greedy.top_p, greedy.temperature), (1.0, 0.0));
    for penalty in [
        (|s| s.repetition_penalty = 1.5) as fn(&mut Sampling),
        |s| s.presence_penalty = 0.5,
        |s| s.frequency_penalty = 0.5,
    ] {
        let mut sampling = Sampling { temperature: 0.7, top_k: 3, ..Sampling::GREEDY };
        assert!(!sampling.penalises());
        penalty(&mut sampling);
        assert!(sampling.penalises());
    }
}
