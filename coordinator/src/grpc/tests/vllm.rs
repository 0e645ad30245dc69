//! `VllmEngine`: answers, ends, and what is told of model and load.

use super::server::{Server, server};
use crate::front::testing::{Act, say};
use crate::front::{FailKind, Readiness};
use crate::sched::Finish;
use crate::text::testing::{END, byte_tokens};
use binfer_proto::client::smg::grpc::common::{GetTokenizerRequest, SubscribeKvEventsRequest};
use binfer_proto::client::vllm::grpc::engine::generate_complete::MatchedStop;
use binfer_proto::client::vllm::grpc::engine::generate_request::Input;
use binfer_proto::client::vllm::grpc::engine::generate_response::Response;
use binfer_proto::client::vllm::grpc::engine::vllm_engine_client::VllmEngineClient;
use binfer_proto::client::vllm::grpc::engine::{
    AbortRequest, GenerateComplete, GenerateRequest, GenerateStreamChunk, GetLoadsRequest,
    GetModelInfoRequest, GetServerInfoRequest, HealthCheckRequest, SamplingParams, TokenizedInput,
};
use ring::digest::{SHA256, digest};
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

pub(super) async fn client(server: &Server) -> VllmEngineClient<Channel> {
    VllmEngineClient::new(server.channel().await)
}

pub(super) fn ask(stream: bool, params: SamplingParams) -> GenerateRequest {
    let input = TokenizedInput { original_text: String::new(), input_ids: vec![262, 262] };
    GenerateRequest {
        request_id: "one".into(),
        input: Some(Input::Tokenized(input)),
        sampling_params: Some(params),
        stream,
        ..GenerateRequest::default()
    }
}

/// The chunks of an answer, and its end.
async fn read(
    mut answer: Streaming<binfer_proto::client::vllm::grpc::engine::GenerateResponse>,
) -> (Vec<GenerateStreamChunk>, Result<GenerateComplete, Status>) {
    let mut chunks = Vec::new();
    loop {
        match answer.message().await {
            Ok(Some(message)) => match message.response.unwrap() {
                Response::Chunk(chunk) => chunks.push(chunk),
                Response::Complete(complete) => {
                    assert!(answer.message().await.unwrap().is_none(), "the complete is the last");
                    return (chunks, Ok(complete));
                }
            },
            Ok(None) => panic!("no end"),
            Err(status) => return (chunks, Err(status)),
        }
    }
}

#[tokio::test]
async fn streamed_and_not_the_tokens_counts_and_logprobs_are_the_same() {
    let script = vec![say("ab"), say("c"), say("d"), Act::Finish(Finish::Length)];
    let server = server(vec![script.clone(), script]);
    let mut client = client(&server).await;
    let params = SamplingParams { logprobs: Some(2), ..SamplingParams::default() };
    let answer = client.generate(ask(false, params.clone())).await.unwrap();
    let (chunks, whole) = read(answer.into_inner()).await;
    let whole = whole.unwrap();
    assert!(chunks.is_empty());
    assert_eq!(whole.output_ids, &byte_tokens(b"abcd")[..]);
    assert_eq!((&*whole.finish_reason, whole.matched_stop.as_ref()), ("length", None));
    assert_eq!((whole.prompt_tokens, whole.completion_tokens), (2, 4));
    let answer = client.generate(ask(true, params)).await.unwrap();
    let (chunks, last) = read(answer.into_inner()).await;
    let last = last.unwrap();
    let tokens: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.token_ids.clone()).collect();
    let logprobs: Vec<f32> = chunks
        .iter()
        .flat_map(|chunk| chunk.output_logprobs.clone().unwrap().token_logprobs)
        .collect();
    for chunk in &chunks {
        assert_eq!((chunk.prompt_tokens, chunk.index), (2, 0));
    }
    // The end may come behind the last token, as an end token does, or with it, as a length does.
    let repeated = &chunks.last().unwrap().token_ids;
    assert!(last.output_ids.is_empty() || *repeated == last.output_ids, "as by vLLM");
    assert_eq!(last.output_logprobs, None);
    let of_whole = whole.output_logprobs.unwrap();
    assert_eq!((&tokens, &logprobs), (&whole.output_ids, &of_whole.token_logprobs));
    assert_eq!(of_whole.top_logprobs.len(), 4);
    assert!(of_whole.top_logprobs.iter().all(|top| top.token_ids.len() == 2));
    let counts = (last.prompt_tokens, last.completion_tokens);
    assert_eq!((counts, &*last.finish_reason), ((2, 4), "length"));
}

#[tokio::test]
async fn the_stop_string_that_matched_is_told() {
    let server = server(vec![vec![say("abEN"), say("Dcd")], vec![Act::Finish(Finish::Stop)]]);
    let mut client = client(&server).await;
    let stop = ["never", "END"].map(str::to_owned).into();
    let params = SamplingParams { stop, ..SamplingParams::default() };
    let (_, whole) = read(client.generate(ask(false, params)).await.unwrap().into_inner()).await;
    let whole = whole.unwrap();
    assert_eq!(&*whole.finish_reason, "stop");
    assert_eq!(whole.matched_stop, Some(MatchedStop::MatchedStopStr("END".into())));
    let end = client.generate(ask(true, SamplingParams::default())).await.unwrap();
    let (_, end) = read(end.into_inner()).await;
    let end = end.unwrap();
    assert_eq!((&*end.finish_reason, end.matched_stop), ("stop", None));
}

#[tokio::test]
async fn the_stop_token_that_matched_is_told_and_the_models_own_is_not() {
    let script = |end| vec![say("ab"), Act::EndWith(end)];
    let server = server(vec![script(99), script(END)]);
    let mut client = client(&server).await;
    for matched in [Some(MatchedStop::MatchedTokenId(99)), None] {
        let params = SamplingParams { stop_token_ids: vec![99], ..SamplingParams::default() };
        let answer = client.generate(ask(true, params)).await.unwrap();
        let end = read(answer.into_inner()).await.1.unwrap();
        assert_eq!((&*end.finish_reason, end.matched_stop), ("stop", matched));
    }
}

#[tokio::test]
async fn an_abort_ends_the_request_and_frees_its_id() {
    let endless = vec![say("ab"), Act::Hold];
    let mut server = server(vec![endless.clone(), endless]);
    let mut client = client(&server).await;
    for stream in [true, false] {
        let answer = client.generate(ask(stream, SamplingParams::default())).await.unwrap();
        let taken = client.generate(ask(stream, SamplingParams::default())).await.unwrap_err();
        assert_eq!(taken.code(), Code::AlreadyExists);
        let request_ids = ["other", "one", "one"].map(str::to_owned).into();
        client.abort(AbortRequest { request_ids }).await.unwrap();
        let (_, end) = read(answer.into_inner()).await;
        assert_eq!(&*end.unwrap().finish_reason, "abort");
        server.scripted.cancelled.recv().await.unwrap();
    }
}

#[tokio::test]
async fn whoever_leaves_or_lets_the_deadline_pass_is_cancelled_in_the_scheduler() {
    let endless = vec![say("ab"), Act::Hold];
    let mut server = server(vec![endless.clone(), endless]);
    let mut client = client(&server).await;
    let mut answer = client.generate(ask(true, SamplingParams::default())).await.unwrap();
    answer.get_mut().message().await.unwrap().unwrap();
    drop(answer);
    server.scripted.cancelled.recv().await.unwrap();
    let mut request = tonic::Request::new(ask(false, SamplingParams::default()));
    request.metadata_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let (_, end) = read(client.generate(request).await.unwrap().into_inner()).await;
    assert_eq!(end.unwrap_err().code(), Code::DeadlineExceeded);
    server.scripted.cancelled.recv().await.unwrap();
}

#[tokio::test]
async fn what_fails_ends_with_its_status() {
    for (kind, code) in [
        (FailKind::WorkerLost, Code::Unavailable),
        (FailKind::Shutdown, Code::Unavailable),
        (FailKind::NonFinite, Code::Internal),
    ] {
        let server = server(vec![vec![say("a"), Act::Fail(kind, "rank 1: why")]]);
        let mut client = client(&server).await;
        let answer = client.generate(ask(true, SamplingParams::default())).await.unwrap();
        let (_, end) = read(answer.into_inner()).await;
        let status = end.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, "rank 1: why"));
    }
}

#[tokio::test]
async fn model_server_health_and_loads_are_told() {
    let server = server(Vec::new());
    let mut client = client(&server).await;
    let model = client.get_model_info(GetModelInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((&*model.served_model_name, model.max_context_length), ("tiny", 256));
    assert_eq!((model.vocab_size, &model.eos_token_ids[..]), (264, &[2][..]));
    let defaults: serde_json::Value =
        serde_json::from_str(&model.default_sampling_params_json).unwrap();
    assert_eq!(defaults["temperature"], 1.0);
    let told = client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((told.max_num_seqs, told.data_parallel_size, told.is_paused), (8, 1, false));
    let loads = client.get_loads(GetLoadsRequest::default()).await.unwrap().into_inner();
    assert_eq!((loads.dp_rank_count, loads.loads[0].max_running_requests), (1, 8));
    let other = GetLoadsRequest { dp_rank: Some(1), ..GetLoadsRequest::default() };
    assert_eq!(client.get_loads(other).await.unwrap_err().code(), Code::InvalidArgument);
    assert!(client.health_check(HealthCheckRequest {}).await.unwrap().into_inner().healthy);
    server.scripted.readiness.send_replace(Readiness::Lost("rank 1 is gone".into()));
    let lost = client.health_check(HealthCheckRequest {}).await.unwrap().into_inner();
    assert_eq!((lost.healthy, &*lost.message), (false, "rank 1 is gone"));
}

#[tokio::test]
async fn the_tokenizer_comes_whole_with_its_digest() {
    let server = server(Vec::new());
    let mut client = client(&server).await;
    let mut chunks = client.get_tokenizer(GetTokenizerRequest {}).await.unwrap().into_inner();
    let (mut zip, mut sha256) = (Vec::new(), String::new());
    while let Some(chunk) = chunks.message().await.unwrap() {
        assert_eq!(sha256, "", "the digest is on the last chunk");
        zip.extend(chunk.data);
        sha256 = chunk.sha256;
    }
    let digest = digest(&SHA256, &zip);
    let digits: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sha256, digits);
    let has = |text: &str| zip.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("tokenizer.json") && has("tokenizer_config.json") && has("<|im_start|>assistant"));
}

#[tokio::test]
async fn loads_come_by_subscription_or_a_refusal_at_once() {
    let server = server(Vec::new());
    let mut client = client(&server).await;
    let loads = SubscribeKvEventsRequest {
        load_records_before_first_batch: true,
        ..SubscribeKvEventsRequest::default()
    };
    let mut stream = client.subscribe_kv_events(loads).await.unwrap().into_inner();
    let first = timeout(Duration::from_secs(10), stream.message()).await.unwrap();
    let load = first.unwrap().unwrap().load.unwrap();
    assert!(load.load_only && load.engine_silence_ms.is_none());
    assert_eq!((load.sample, load.max_running_requests), (1, 8));
    let events = SubscribeKvEventsRequest::default();
    let status = client.subscribe_kv_events(events).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    server.close.send_replace(true);
    while let Ok(Some(_)) = stream.message().await {}
    timeout(Duration::from_secs(10), server.served).await.unwrap().unwrap().unwrap();
}
