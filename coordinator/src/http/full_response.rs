//! The full response: an answer that is not streamed.
//!
//! Nothing is sent before the answer is complete, so a client that has closed its socket looks like
//! one that has shut down its writing side and waits. Such a client is sent the head and a space,
//! with which JSON may begin. If nobody is there, its host says so, and the request is cancelled.

use super::answer::{AnswerHeader, Choice, TokenIds};
use super::chunk_writer::{self, Ended};
use super::error::ApiError;
use super::logprobs::LogprobsWriter;
use crate::front::{AnswerStream, StreamEvent};
use crate::text::TextPieces;
use crate::transport::ClientState;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use http_body::Frame;
use serde_json::Value;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The JSON of the full response.
pub(super) async fn answer(
    header: AnswerHeader,
    mut answer: AnswerStream,
    mut logprobs: Option<LogprobsWriter>,
    with_token_ids: bool,
) -> Result<String, ApiError> {
    let (mut text, mut found) = (TextPieces::default(), Vec::new());
    let mut ids = TokenIds { prompt: answer.prompt().to_vec(), answer: Vec::new() };
    loop {
        let reply = answer.next().await;
        found.append(&mut answer.take_logprobs());
        if with_token_ids {
            answer.take_tokens(&mut ids.answer);
        }
        match reply {
            StreamEvent::Text(more) => text.append(&more),
            StreamEvent::End(end) => {
                let Ended { finish, usage, text: end } = chunk_writer::ended(end)?;
                ids.answer.extend(end.end_token);
                let logprobs = logprobs.as_mut().map(|logprobs| logprobs.json(&found));
                let logprobs = logprobs.unwrap_or(Value::Null);
                let token_ids = with_token_ids.then_some(ids);
                let stop_reason = end.stop_reason;
                let choice = Choice { text, logprobs, finish, stop_reason, token_ids };
                let usage = header.usage(usage, end.reasoning_tokens);
                return Ok(header.full_response(&choice, &usage).to_string());
            }
        }
    }
}

/// The response with the JSON of `answer`. Where the client may have left before that is complete,
/// the response begins without it.
pub(super) async fn respond(
    answer: impl Future<Output = Result<String, ApiError>> + Send + 'static,
    client: &ClientState,
) -> Result<Response, ApiError> {
    let mut answer = Box::pin(answer);
    let body = tokio::select! {
        biased;
        json = answer.as_mut() => Body::from(json?),
        () = client.until_may_have_left() => Body::new(LateBody { begun: false, answer: Some(answer) }),
    };
    let mut response = Response::new(body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// The body of a response whose head is sent before its JSON is known.
struct LateBody<F> {
    begun: bool,
    /// `None` once the body has ended.
    answer: Option<Pin<Box<F>>>,
}

impl<F: Future<Output = Result<String, ApiError>>> http_body::Body for LateBody<F> {
    type Data = Bytes;
    /// The status was sent, so a failure can only cut the answer off.
    type Error = ApiError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ApiError>>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.begun, true) {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))));
        }
        let Some(answer) = &mut this.answer else { return Poll::Ready(None) };
        let json = ready!(answer.as_mut().poll(cx));
        this.answer = None;
        Poll::Ready(Some(json.map(|json| Frame::data(json.into()))))
    }
}
