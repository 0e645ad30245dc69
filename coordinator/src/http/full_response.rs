//! The full response: an answer that is not streamed.
//!
//! Nothing is sent before the answer is complete, so a client that has closed its socket looks like
//! one that has shut down its writing side and waits. Such a client is sent the head and a space,
//! with which JSON may begin. If nobody is there, its host says so, and the request is cancelled.

use super::answer::{AnswerHeader, Choice, TokenIds};
use super::chunk_writer::{self, Ended};
use super::error::ApiError;
use super::logprobs::LogprobsWriter;
use crate::front::AnswerStream;
use crate::text::TextPieces;
use crate::transport::ClientState;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use binfer_proto::Logprob;
use http_body::Frame;
use serde_json::Value;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// One of a request's answers, as far as it was read.
#[derive(Debug)]
pub(super) struct ChoiceReader {
    answer: AnswerStream,
    logprobs: Option<LogprobsWriter>,
    /// Present where the request asked for them.
    token_ids: Option<TokenIds>,
    text: TextPieces,
    found: Vec<Logprob>,
    ended: Option<Ended>,
}

impl ChoiceReader {
    /// The reader of an answer of which nothing was read.
    pub(super) fn new(
        answer: AnswerStream,
        logprobs: Option<LogprobsWriter>,
        with_token_ids: bool,
    ) -> Self {
        let ids = || TokenIds { prompt: answer.prompt().to_vec(), answer: Vec::new() };
        let token_ids = with_token_ids.then(ids);
        let (text, found) = (TextPieces::default(), Vec::new());
        Self { answer, logprobs, token_ids, text, found, ended: None }
    }

    /// Reads what has come, and fails as the answer does. Without an end `cx` is woken for more.
    fn read(&mut self, cx: &Context<'_>) -> Result<(), ApiError> {
        if self.ended.is_some() {
            return Ok(());
        }
        let Poll::Ready(end) = self.answer.poll_take(cx, &mut self.text) else { return Ok(()) };
        self.found.append(&mut self.answer.take_logprobs());
        if let Some(ids) = &mut self.token_ids {
            self.answer.take_tokens(&mut ids.answer);
        }
        if let Some(end) = end {
            let ended = chunk_writer::ended(end)?;
            if let Some(ids) = &mut self.token_ids {
                ids.answer.extend(ended.text.end_token);
            }
            self.ended = Some(ended);
        }
        Ok(())
    }

    /// The choice of an answer that has ended.
    fn choice(self, index: usize, ended: &Ended) -> Choice {
        let found = self.found;
        let logprobs = self.logprobs.map_or(Value::Null, |mut writer| writer.json(&found));
        let (finish, stop_reason) = (ended.finish, ended.text.stop_reason.clone());
        Choice { index, text: self.text, logprobs, finish, stop_reason, token_ids: self.token_ids }
    }
}

/// The JSON of the full response. All answers are read as they come. If one fails, the response
/// does.
pub(super) async fn answer(
    header: AnswerHeader,
    mut readers: Vec<ChoiceReader>,
) -> Result<String, ApiError> {
    poll_fn(|cx| {
        for reader in &mut readers {
            reader.read(cx)?;
        }
        let all = readers.iter().all(|reader| reader.ended.is_some());
        if all { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await?;
    let ended: Vec<Ended> = readers.iter_mut().filter_map(|reader| reader.ended.take()).collect();
    let choices = readers.into_iter().zip(&ended).enumerate();
    let choices: Vec<Choice> =
        choices.map(|(index, (reader, ended))| reader.choice(index, ended)).collect();
    let (usage, reasoning_tokens) = chunk_writer::total(&ended);
    Ok(header.full_response(&choices, &header.usage(usage, reasoning_tokens)).to_string())
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
