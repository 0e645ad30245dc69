//! The messages of an answer. Dropping them cancels the request.

use crate::front::{AnswerStream, End};
use crate::grpc::request_ids::Abortable;
use crate::grpc::status;
use crate::sched::{Finish, Usage};
use crate::text::{StopReason, TextPieces};
use binfer_proto::client::vllm::grpc::engine::generate_complete::MatchedStop;
use binfer_proto::client::vllm::grpc::engine::generate_response::Response;
use binfer_proto::client::vllm::grpc::engine::{
    GenerateComplete, GenerateResponse, GenerateStreamChunk, OutputLogProbs, TopLogProbs,
};
use binfer_proto::{Logprob, Token};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_stream::Stream;
use tonic::Status;

/// The messages of one answer: chunks, if it is streamed, and one complete.
#[derive(Debug)]
pub(in crate::grpc) struct AnswerMessages {
    /// `None` once the answer has ended.
    answer: Option<AnswerStream>,
    stream: bool,
    abortable: Option<Abortable>,
    aborted: bool,
    /// Tokens that were in no message yet.
    tokens: Vec<Token>,
    /// Their logprobs.
    logprobs: Vec<Logprob>,
    usage: Usage,
    /// The last message, behind a chunk with the last tokens.
    complete: Option<GenerateResponse>,
}

impl AnswerMessages {
    pub(super) fn new(answer: AnswerStream, stream: bool, abortable: Option<Abortable>) -> Self {
        Self {
            answer: Some(answer),
            stream,
            abortable,
            aborted: false,
            tokens: Vec::new(),
            logprobs: Vec::new(),
            usage: Usage::default(),
            complete: None,
        }
    }

    /// Takes what came. Ready where a message may be due: with the end, if it was reached.
    fn poll_take(&mut self, answer: &AnswerStream, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let end = answer.poll_take(cx, &mut TextPieces::default());
        if end.is_ready() {
            self.usage = answer.take_tokens(&mut self.tokens);
            self.logprobs.append(&mut answer.take_logprobs());
        }
        end
    }

    fn chunk(&mut self, each: usize) -> GenerateResponse {
        let response = Response::Chunk(GenerateStreamChunk {
            output_logprobs: self.output_logprobs(each),
            token_ids: std::mem::take(&mut self.tokens),
            prompt_tokens: self.usage.prompt,
            completion_tokens: self.usage.generated,
            cached_tokens: self.usage.cached,
            index: 0,
        });
        GenerateResponse { response: Some(response) }
    }

    /// The next message of an answer that has ended, or was aborted. A chunk is still due for
    /// tokens of a streamed one. The complete repeats these tokens, and not their logprobs.
    fn last(
        &mut self,
        each: usize,
        ended: Option<(Finish, Option<StopReason>)>,
    ) -> GenerateResponse {
        if !self.stream || self.tokens.is_empty() {
            return self.complete(each, ended);
        }
        let tokens = self.tokens.clone();
        let chunk = self.chunk(each);
        self.tokens = tokens;
        self.complete = Some(self.complete(each, ended));
        chunk
    }

    fn complete(
        &mut self,
        each: usize,
        ended: Option<(Finish, Option<StopReason>)>,
    ) -> GenerateResponse {
        let reason = match ended {
            Some((Finish::Length, _)) => "length",
            Some(_) => "stop",
            None => "abort",
        };
        let matched_stop = ended.and_then(|(_, stop)| stop).map(|stop| match stop {
            StopReason::Text(text) => MatchedStop::MatchedStopStr(text),
            StopReason::Token(token) => MatchedStop::MatchedTokenId(token),
        });
        let response = Response::Complete(GenerateComplete {
            output_logprobs: self.output_logprobs(each),
            output_ids: std::mem::take(&mut self.tokens),
            finish_reason: reason.to_owned(),
            prompt_tokens: self.usage.prompt,
            completion_tokens: self.usage.generated,
            cached_tokens: self.usage.cached,
            index: 0,
            matched_stop,
        });
        GenerateResponse { response: Some(response) }
    }

    fn output_logprobs(&mut self, each: usize) -> Option<OutputLogProbs> {
        let found = std::mem::take(&mut self.logprobs);
        (each > 0 && !found.is_empty()).then(|| {
            let tokens = found.chunks_exact(each);
            let tops = tokens.clone().map(|all| TopLogProbs {
                values: all[1..].iter().map(|top| top.logprob).collect(),
                token_ids: all[1..].iter().map(|top| top.token).collect(),
            });
            OutputLogProbs {
                token_logprobs: tokens.clone().map(|all| all[0].logprob).collect(),
                token_ids: tokens.clone().map(|all| all[0].token).collect(),
                top_logprobs: tops.collect(),
            }
        })
    }
}

impl Stream for AnswerMessages {
    type Item = Result<GenerateResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(answer) = this.answer.take() else {
            return Poll::Ready(this.complete.take().map(Ok));
        };
        let each = usize::from(answer.logprobs());
        if let Some(abortable) = &mut this.abortable
            && !this.aborted
        {
            this.aborted = abortable.poll_aborted(cx).is_ready();
        }
        let message = loop {
            match this.poll_take(&answer, cx) {
                Poll::Ready(Some(End::Done { finish, usage, text })) => {
                    this.usage = usage;
                    break Ok(this.last(each, Some((finish, text.stop_reason))));
                }
                Poll::Ready(Some(End::Failed { message, kind })) => {
                    break Err(status::failed(kind, message));
                }
                _ if this.aborted => break Ok(this.last(each, None)),
                Poll::Ready(None) if this.stream && !this.tokens.is_empty() => {
                    let chunk = this.chunk(each);
                    this.answer = Some(answer);
                    break Ok(chunk);
                }
                // Text of tokens that were in a chunk before, or an answer that is not streamed.
                Poll::Ready(None) => {}
                Poll::Pending => {
                    this.answer = Some(answer);
                    return Poll::Pending;
                }
            }
        };
        Poll::Ready(Some(message))
    }
}
