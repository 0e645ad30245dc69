//! `VllmEngine`: what of a request reaches the scheduler, and what is refused by name.

use super::server::server;
use super::vllm::{ask, client};
use crate::front::Readiness;
use crate::front::testing::Act;
use crate::sched::{Finish, Refused};
use binfer_proto::client::vllm::grpc::engine::generate_request::Input;
use binfer_proto::client::vllm::grpc::engine::sampling_params::Constraint;
use binfer_proto::client::vllm::grpc::engine::{
    ChoiceConstraint, GenerateRequest, KvTransferParams, MediaRefs, MultimodalInputs,
    SamplingParams,
};
use binfer_proto::{Bias, Sampling};
use tonic::Code;

#[tokio::test]
async fn every_parameter_reaches_the_scheduler_and_zeros_are_defaults() {
    let script = vec![Act::Finish(Finish::Stop)];
    let mut server = server(vec![script.clone(), script]);
    let mut client = client(&server).await;
    let params = SamplingParams {
        temperature: Some(0.5),
        top_p: 0.25,
        top_k: 7,
        min_p: 0.125,
        frequency_penalty: 0.5,
        presence_penalty: -0.5,
        repetition_penalty: 1.5,
        max_tokens: Some(9),
        stop: vec!["END".into()],
        ignore_eos: true,
        logprobs: Some(3),
        seed: Some(-2),
        logit_bias: [(5, 1.5)].into(),
        ..SamplingParams::default()
    };
    client.generate(ask(true, params)).await.unwrap();
    let seen = server.scripted.seen.recv().await.unwrap();
    let request = seen.request;
    let sampling = Sampling {
        temperature: 0.5,
        top_k: 7,
        top_p: 0.25,
        min_p: 0.125,
        repetition_penalty: 1.5,
        presence_penalty: -0.5,
        frequency_penalty: 0.5,
    };
    assert_eq!((request.sampling, request.max_tokens, request.logprobs), (sampling, 9, 4));
    assert_eq!((request.prompt, request.ignore_eos), (vec![262, 262], true));
    assert_eq!((request.seed, seen.text.stop), (u64::MAX - 1, vec!["END".to_owned()]));
    assert_eq!(request.biases, [Bias { token: 5, value: 1.5 }]);

    let plain = GenerateRequest {
        input: Some(Input::Text("hello".into())),
        sampling_params: None,
        ..ask(false, SamplingParams::default())
    };
    client.generate(GenerateRequest { request_id: String::new(), ..plain }).await.unwrap();
    let request = server.scripted.seen.recv().await.unwrap().request;
    let defaults = Sampling { temperature: 1.0, ..Sampling::GREEDY };
    assert_eq!((request.sampling, request.logprobs, request.ignore_eos), (defaults, 0, false));
    assert_eq!((request.prompt, request.max_tokens), (vec![262], 255));
}

#[tokio::test]
async fn ends_and_cuts_of_a_request_reach_the_scheduler() {
    let script = vec![Act::Finish(Finish::Stop)];
    let mut server = server(vec![script.clone(), script]);
    let mut client = client(&server).await;
    for (cut, prompt) in [(1, vec![262]), (-1, vec![262, 262])] {
        let params = SamplingParams {
            min_tokens: 3,
            stop_token_ids: vec![99],
            truncate_prompt_tokens: Some(cut),
            ..SamplingParams::default()
        };
        let id = GenerateRequest { request_id: String::new(), ..ask(true, params) };
        client.generate(id).await.unwrap();
        let request = server.scripted.seen.recv().await.unwrap().request;
        assert_eq!(request.prompt, prompt, "{cut}");
        assert!(request.end_ids.contains(&99), "{:?}", request.end_ids);
        assert_eq!(request.least.map(|least| least.tokens), Some(3));
    }
}

#[tokio::test]
async fn what_this_server_lacks_or_cannot_be_is_refused_by_name() {
    let server = server(Vec::new());
    let mut client = client(&server).await;
    let of = |params| ask(true, params);
    let none = SamplingParams::default;
    let constrained = |constraint| of(SamplingParams { constraint: Some(constraint), ..none() });
    let with = |change: fn(&mut GenerateRequest)| {
        let mut request = of(none());
        change(&mut request);
        request
    };
    for (request, name) in [
        (constrained(Constraint::JsonSchema("{}".into())), "json_schema"),
        (constrained(Constraint::Regex("a".into())), "regex"),
        (constrained(Constraint::Grammar("a".into())), "grammar"),
        (constrained(Constraint::StructuralTag("{}".into())), "structural_tag"),
        (constrained(Constraint::JsonObject(true)), "json_object"),
        (constrained(Constraint::Choice(ChoiceConstraint::default())), "choice"),
        (of(SamplingParams { min_tokens: 1000, ..none() }), "min_tokens"),
        (of(SamplingParams { stop_token_ids: vec![264], ..none() }), "stop_token_ids"),
        (of(SamplingParams { n: 2, ..none() }), "n is"),
        (of(SamplingParams { prompt_logprobs: Some(0), ..none() }), "prompt_logprobs"),
        (
            of(SamplingParams { truncate_prompt_tokens: Some(0), ..none() }),
            "truncate_prompt_tokens",
        ),
        (
            of(SamplingParams { truncate_prompt_tokens: Some(-2), ..none() }),
            "truncate_prompt_tokens",
        ),
        (of(SamplingParams { logprobs: Some(-1), ..none() }), "logprobs"),
        (of(SamplingParams { logprobs: Some(21), ..none() }), "logprobs"),
        (of(SamplingParams { logit_bias: [(-1, 1.0)].into(), ..none() }), "logit_bias"),
        (of(SamplingParams { logit_bias: [(264, 1.0)].into(), ..none() }), "logit_bias"),
        (of(SamplingParams { top_p: 1.5, ..none() }), "top_p"),
        (of(SamplingParams { temperature: Some(f32::NAN), ..none() }), "temperature"),
        (of(SamplingParams { presence_penalty: 3.0, ..none() }), "presence_penalty"),
        (of(SamplingParams { max_tokens: Some(0), ..none() }), "max_tokens"),
        (of(SamplingParams { max_tokens: Some(1000), ..none() }), "maximum context length is 256"),
        (of(SamplingParams { stop: vec![String::new()], ..none() }), "stop"),
        (with(|request| request.input = None), "input"),
        (with(|request| request.input = Some(Input::Text(String::new()))), "input"),
        (with(|request| request.mm_inputs = Some(MultimodalInputs {})), "mm_inputs"),
        (with(|request| request.extra_mm_inputs = vec![MultimodalInputs {}]), "extra_mm_inputs"),
        (with(|request| request.media_refs = Some(MediaRefs {})), "media_refs"),
        (
            with(|request| request.kv_transfer_params = Some(KvTransferParams::default())),
            "kv_transfer_params",
        ),
        (
            with(|request| request.kv_transfer_params_json = Some("{}".into())),
            "kv_transfer_params_json",
        ),
        (with(|request| request.data_parallel_rank = Some(1)), "data_parallel_rank"),
        (with(|request| request.request_id = "x".repeat(257)), "request_id"),
    ] {
        let status = client.generate(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status:?}");
        assert!(status.message().contains(name), "{name}: {status:?}");
    }
}

#[tokio::test]
async fn refusals_of_the_core_have_the_codes_that_gateways_know() {
    let full = Refused::QueueFull { requests: 9, tokens: 99 };
    let server = server(vec![vec![Act::Refuse(full)], vec![Act::Refuse(Refused::Draining)]]);
    let mut client = client(&server).await;
    for code in [Code::ResourceExhausted, Code::Unavailable] {
        let refused = client.generate(ask(true, SamplingParams::default())).await;
        assert_eq!(refused.unwrap_err().code(), code);
    }
    server.scripted.readiness.send_replace(Readiness::Lost("rank 1 is gone".into()));
    let status = client.generate(ask(true, SamplingParams::default())).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "rank 1 is gone"));
}
