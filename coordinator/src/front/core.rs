//! From a prompt to an admitted request: check, render, tokenise, submit.
//!
//! Ranges are checked here and not in the fronts, so that all fronts accept the same requests.

use super::answer_stream::AnswerStream;
use super::checks;
use super::command::{ServeCommand, Submit};
use super::ends::{self, Ends};
use super::error::{Field, FieldError, SubmitError};
use super::generate_request::{GenerateRequest, Prompt};
use super::info::{CHOICES_MAX, CoreLimits, ModelInfo, Readiness};
use super::load::Load;
use super::outbox::Outbox;
use super::stream_buffer::{ReadCounter, ReadMode, StreamBuffer};
use crate::metrics::Metrics;
use crate::sched::{Refused, Request, RequestId, TenantId};
use crate::text::process::TextProcess;
use crate::text::{AskedText, TokenizerFiles};
use binfer_proto::Token;
use std::borrow::Cow;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tokio::sync::{Semaphore, mpsc, watch};

/// What a core is made of.
#[derive(Debug)]
pub struct CoreParts {
    /// To the serve loop; its capacity bounds what waits there.
    pub commands: mpsc::Sender<ServeCommand>,
    /// Facts about the model.
    pub model: Arc<ModelInfo>,
    /// Tokenizer and chat template.
    pub text: Arc<TextProcess>,
    /// Set by whoever supervises the workers.
    pub readiness: watch::Receiver<Readiness>,
    /// Told by the serve loop.
    pub load: watch::Receiver<Load>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// The one that the serve loop's [`super::Readers`] send through.
    pub outbox: Arc<Outbox>,
    /// Bounds.
    pub limits: CoreLimits,
}

/// The request core; clones share everything.
#[derive(Clone, Debug)]
pub struct Core {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) parts: CoreParts,
    end_ids: Arc<[Token]>,
    next_id: AtomicU64,
    context_max: AtomicU32,
    pub(super) pool: Arc<Semaphore>,
    pub(super) pool_queue: Arc<Semaphore>,
}

impl Core {
    /// A core over `parts`.
    pub fn new(parts: CoreParts) -> Self {
        let queue = parts.limits.tokenizing_max + parts.limits.tokenizing_queue_max;
        let shared = Shared {
            end_ids: parts.model.end_ids.as_slice().into(),
            next_id: AtomicU64::new(1),
            context_max: AtomicU32::new(parts.model.context_max),
            pool: Arc::new(Semaphore::new(parts.limits.tokenizing_max)),
            pool_queue: Arc::new(Semaphore::new(queue)),
            parts,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Facts about the model.
    pub fn model(&self) -> &ModelInfo {
        &self.shared.parts.model
    }

    /// Whether the model brings a chat template.
    pub fn has_template(&self) -> bool {
        self.shared.parts.text.facts().has_template()
    }

    /// Positions in a sequence, prompt and answer together.
    pub fn context_max(&self) -> u32 {
        self.shared.context_max.load(Ordering::Relaxed)
    }

    /// Lets no sequence be longer than the KV cache holds.
    pub fn limit_context(&self, positions: u32) {
        self.shared.context_max.fetch_min(positions, Ordering::Relaxed);
    }

    /// Whether requests are taken now.
    pub fn readiness(&self) -> Readiness {
        self.shared.parts.readiness.borrow().clone()
    }

    /// The engine's load, a moment ago at most.
    pub fn load(&self) -> Load {
        *self.shared.parts.load.borrow()
    }

    /// What is measured of this server.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.parts.metrics
    }

    /// The files with which another program reads texts as this server does.
    ///
    /// # Errors
    /// Why they cannot be had now.
    pub async fn tokenizer_files(&self) -> Result<TokenizerFiles, SubmitError> {
        let text = self.shared.parts.text.clone();
        let files = self.on_pool(move || text.files()).await?;
        files.map_err(|error| self.not_encoded(error))
    }

    /// Waits until no more requests are taken, because the server is shutting down.
    pub async fn until_draining(&self) {
        let mut readiness = self.shared.parts.readiness.clone();
        if readiness.wait_for(|state| *state == Readiness::Draining).await.is_err() {
            // Nobody is left who could say so.
            std::future::pending::<()>().await;
        }
    }

    /// The core's bounds.
    pub fn limits(&self) -> &CoreLimits {
        &self.shared.parts.limits
    }

    /// The bytes that a token adds to a text. A token that is no part of a text gives its name.
    pub fn token_bytes(&self, token: Token) -> Cow<'_, [u8]> {
        self.shared.parts.text.facts().token_bytes(token)
    }

    /// The dispatcher: brings the serve loop's updates to their streams, for ever. It runs on the
    /// thread that reads the streams; without it no stream hears anything.
    pub(super) async fn dispatch_updates(&self) -> Infallible {
        self.shared.parts.outbox.dispatch().await
    }

    /// Submits a request and waits until the scheduler took it. Dropping the stream cancels it.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn generate(&self, asked: GenerateRequest) -> Result<AnswerStream, SubmitError> {
        let (read_mode, token_ids) = (asked.read_mode, asked.token_ids);
        let (request, text, is_chat) = self.counted(self.checked(asked).await)?;
        let read_counter = Arc::new(ReadCounter::new(token_ids));
        self.counted(self.submit(Submit { request, text, is_chat, read_counter }, read_mode).await)
    }

    /// Submits a request for so many answers, and waits until the scheduler took all. Each draws
    /// other random numbers; full blocks of the prompt are computed once. Dropping a stream cancels
    /// that answer.
    ///
    /// # Errors
    /// Why one was not taken. Then the others are cancelled.
    pub async fn generate_choices(
        &self,
        asked: GenerateRequest,
        choices: u32,
    ) -> Result<Vec<AnswerStream>, SubmitError> {
        if !(1..=CHOICES_MAX).contains(&choices) {
            let cause = format!("is {choices}, not from 1 to {CHOICES_MAX}");
            return self.counted(Err(FieldError::new(Field::Choices, cause).into()));
        }
        let (read_mode, token_ids) = (asked.read_mode, asked.token_ids);
        let (request, text, is_chat) = self.counted(self.checked(asked).await)?;
        let mut streams = Vec::new();
        for choice in 0..choices {
            let id = if choice == 0 { request.id } else { self.next_id() };
            let request = Request { id, choice, ..request.clone() };
            let (text, read_counter) = (text.clone(), Arc::new(ReadCounter::new(token_ids)));
            let submit = Submit { request, text, is_chat, read_counter };
            streams.push(self.counted(self.submit(submit, read_mode).await)?);
        }
        Ok(streams)
    }

    fn next_id(&self) -> RequestId {
        RequestId(self.shared.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// What the scheduler and the text stage get of a request, and whether it is a chat.
    async fn checked(
        &self,
        asked: GenerateRequest,
    ) -> Result<(Request, AskedText, bool), SubmitError> {
        self.check_ready()?;
        let model = self.model();
        let sampling = checks::sampling(asked.sampling)?;
        let biases = checks::biases(asked.biases, model)?;
        ends::stop(&asked.stop, self.limits())?;
        ends::stop_tokens(&asked.stop_tokens, model)?;
        checks::cache_salt(asked.cache_salt.as_deref(), self.limits())?;
        let is_chat = matches!(asked.prompt, Prompt::Chat(_));
        let ends = self.ends(&asked.stop, &asked.stop_tokens, asked.ignore_eos, is_chat);
        let mut prompt =
            self.tokens(asked.prompt, asked.add_special_tokens, asked.prompt_tokens).await?;
        let context_max = self.context_max();
        checks::cut_prompt(&mut prompt, asked.prompt_tokens, asked.max_tokens, context_max)?;
        let max_tokens = checks::max_tokens(prompt.len(), asked.max_tokens, context_max)?;
        let least = ends.least(asked.min_tokens, max_tokens, model.vocab)?;
        let request = Request {
            id: self.next_id(),
            prompt,
            max_tokens,
            end_ids: ends.ids,
            ignore_eos: ends.ignored,
            sampling,
            biases,
            logprobs: checks::logprobs(asked.top_logprobs, model),
            seed: asked.seed.unwrap_or_else(random_seed),
            choice: 0,
            tenant: TenantId::default(),
            weights: model.weights,
            cache_salt: asked.cache_salt.map(Into::into),
            queue_deadline: None,
            least,
        };
        let text = AskedText {
            stop: asked.stop,
            include_stop: asked.include_stop,
            min_tokens: asked.min_tokens,
            show_special: asked.show_special_tokens,
            end_names: ends.names,
        };
        Ok((request, text, is_chat))
    }

    /// What ends the answer. Markup of a chat's answer is no part of its content, which stop
    /// strings are about.
    fn ends(&self, stop: &[String], tokens: &[Token], ignore_eos: bool, is_chat: bool) -> Ends {
        let mut controls = self.shared.parts.text.facts().control_tokens(stop);
        controls.retain(|(token, _)| !(is_chat && self.model().reasoning.is_mark(*token)));
        Ends::new(&self.shared.end_ids, ignore_eos, tokens, controls)
    }

    async fn submit(
        &self,
        submit: Submit,
        read_mode: ReadMode,
    ) -> Result<AnswerStream, SubmitError> {
        let parts = &self.shared.parts;
        let buffer = Arc::new(StreamBuffer::new(read_mode, Arc::clone(&submit.read_counter)));
        let outbox = Arc::clone(&parts.outbox);
        let commands = parts.commands.clone();
        let wants_tokens = submit.read_counter.token_ids();
        let (request, sink) = (&submit.request, Arc::clone(&buffer));
        let stream = AnswerStream::open(request, wants_tokens, sink, outbox, commands);
        // The serve loop takes it soon, and the queue alone says whether there is room.
        if parts.commands.send(ServeCommand::Submit(Box::new(submit))).await.is_err() {
            return Err(self.unavailable("the server has stopped"));
        }
        let answered =
            |answer: Result<(), Refused>| answer.map(|()| stream).map_err(|why| self.refusal(&why));
        tokio::select! {
            biased;
            answer = buffer.admitted() => return answered(answer),
            // The serve loop is over; its last updates may still lie in the outbox.
            () = parts.commands.closed() => parts.outbox.dispatch_pending(),
        }
        tokio::select! {
            biased;
            answer = buffer.admitted() => answered(answer),
            // Nobody is left who could answer.
            () = std::future::ready(()) => Err(self.unavailable("the server has stopped")),
        }
    }
}

/// A seed for a request that brings none, from the process's hash keys.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
