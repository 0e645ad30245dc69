//! `vllm.grpc.engine.VllmEngine`: the engine's protocol of gateways, which tokenise, render chats
//! and parse answers themselves. Requests and answers are tokens.

mod answer;
mod info;
mod kv_events;
mod request;
mod tokenizer;
mod zip;

use super::request_ids::RequestIds;
use crate::front::FrontContext;
use answer::AnswerMessages;
use binfer_proto::client::smg::grpc::common::{
    GetTokenizerChunk, GetTokenizerRequest, KvEventBatch, SubscribeKvEventsRequest,
};
use binfer_proto::client::vllm::grpc::engine::vllm_engine_server::VllmEngine;
use binfer_proto::client::vllm::grpc::engine::{
    AbortRequest, AbortResponse, GenerateRequest, GetLoadsRequest, GetLoadsResponse,
    GetModelInfoRequest, GetModelInfoResponse, GetServerInfoRequest, GetServerInfoResponse,
    HealthCheckRequest, HealthCheckResponse,
};
use std::sync::Arc;
use std::time::Instant;
use tokenizer::TokenizerZip;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub(super) struct VllmService {
    context: FrontContext,
    requests: RequestIds,
    tokenizer: Arc<TokenizerZip>,
    started: Instant,
}

impl VllmService {
    pub(super) fn new(context: FrontContext) -> Self {
        Self {
            context,
            requests: RequestIds::default(),
            tokenizer: Arc::default(),
            started: Instant::now(),
        }
    }
}

#[tonic::async_trait]
impl VllmEngine for VllmService {
    type GenerateStream = AnswerMessages;
    type GetTokenizerStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<GetTokenizerChunk, Status>>>;
    type SubscribeKvEventsStream = ReceiverStream<Result<KvEventBatch, Status>>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<AnswerMessages>, Status> {
        let core = &self.context.core;
        let request = request::read(request.into_inner(), core.model())?;
        let abortable = self.requests.take(request.id)?;
        let answer = core.generate(request.generate).await;
        let answer = answer.map_err(|error| super::status::of_submit(&error, request::name))?;
        Ok(Response::new(AnswerMessages::new(answer, request.stream, abortable)))
    }

    async fn health_check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(info::health(&self.context.core)))
    }

    async fn abort(
        &self,
        request: Request<AbortRequest>,
    ) -> Result<Response<AbortResponse>, Status> {
        for id in &request.get_ref().request_ids {
            self.requests.abort(id);
        }
        Ok(Response::new(AbortResponse {}))
    }

    async fn get_model_info(
        &self,
        _: Request<GetModelInfoRequest>,
    ) -> Result<Response<GetModelInfoResponse>, Status> {
        Ok(Response::new(info::model(&self.context.core)))
    }

    async fn get_server_info(
        &self,
        _: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        Ok(Response::new(info::server(&self.context.core, self.started.elapsed())))
    }

    async fn get_loads(
        &self,
        request: Request<GetLoadsRequest>,
    ) -> Result<Response<GetLoadsResponse>, Status> {
        request::check_replica(request.get_ref().dp_rank, "dp_rank")?;
        Ok(Response::new(info::loads(&self.context.core)))
    }

    async fn get_tokenizer(
        &self,
        _: Request<GetTokenizerRequest>,
    ) -> Result<Response<Self::GetTokenizerStream>, Status> {
        let chunks = self.tokenizer.chunks(&self.context.core).await?;
        Ok(Response::new(tokio_stream::iter(chunks)))
    }

    async fn subscribe_kv_events(
        &self,
        request: Request<SubscribeKvEventsRequest>,
    ) -> Result<Response<Self::SubscribeKvEventsStream>, Status> {
        kv_events::subscribe(request.get_ref(), &self.context).map(Response::new)
    }
}
