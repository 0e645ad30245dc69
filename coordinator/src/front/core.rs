//! From a prompt to an admitted request: check, render, tokenise, submit.
//!
//! Rendering and tokenising run on a bounded pool, so that a long prompt delays no stream, and
//! prompts beyond its queue are refused at once. Ranges are checked here and not in the fronts, so
//! that all fronts accept the same requests.

use super::answer_stream::AnswerStream;
use super::checks;
use super::command::{ServeCommand, Submit};
use super::error::SubmitError;
use super::generate_request::{GenerateRequest, Prompt};
use super::info::{CoreLimits, ModelInfo, Readiness};
use super::load::Load;
use super::outbox::Outbox;
use super::stream_buffer::{ReadCounter, ReadMode, StreamBuffer};
use crate::sched::{Refused, Request, RequestId};
use crate::text::TokenizerFiles;
use crate::text::process::{TextJob, TextProcess};
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
    /// The one that the serve loop's [`super::Readers`] send through.
    pub outbox: Arc<Outbox>,
    /// Bounds.
    pub limits: CoreLimits,
}

/// The request core; clones share everything.
#[derive(Clone, Debug)]
pub struct Core {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    parts: CoreParts,
    end_ids: Arc<[Token]>,
    next_id: AtomicU64,
    context_max: AtomicU32,
    pool: Arc<Semaphore>,
    pool_queue: Arc<Semaphore>,
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
        self.check_ready()?;
        let sampling = checks::sampling(asked.sampling)?;
        let biases = checks::biases(asked.biases, self.model())?;
        checks::stop(&asked.stop, self.limits())?;
        let is_chat = matches!(asked.prompt, Prompt::Chat(_));
        let mut named = self.shared.parts.text.facts().control_tokens(&asked.stop);
        // Markup of a chat's answer is no part of its content, which stop strings are about.
        named.retain(|token| !(is_chat && self.model().reasoning.is_mark(*token)));
        let (end_ids, ignore_eos) = checks::ends(named, &self.shared.end_ids, asked.ignore_eos);
        let prompt = self.tokens(asked.prompt).await?;
        let max_tokens = checks::max_tokens(prompt.len(), asked.max_tokens, self.context_max())?;
        let id = RequestId(self.shared.next_id.fetch_add(1, Ordering::Relaxed));
        let request = Request {
            id,
            prompt,
            max_tokens,
            end_ids,
            ignore_eos,
            sampling,
            biases,
            logprobs: checks::logprobs(asked.top_logprobs, self.model()),
            seed: asked.seed.unwrap_or_else(random_seed),
            choice: 0,
            salt: self.model().salt,
            queue_deadline: None,
        };
        let read_counter = Arc::new(ReadCounter::new(asked.token_ids));
        let submit = Submit { request, stop: asked.stop, is_chat, read_counter };
        self.submit(submit, asked.read_mode).await
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
        let stream = AnswerStream::open(&submit.request, Arc::clone(&buffer), outbox, commands);
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

    fn check_ready(&self) -> Result<(), SubmitError> {
        match &*self.shared.parts.readiness.borrow() {
            Readiness::Ready => Ok(()),
            not_ready => Err(self.unavailable(&not_ready.to_string())),
        }
    }

    async fn tokens(&self, prompt: Prompt) -> Result<Vec<Token>, SubmitError> {
        let tokens_max = self.context_max();
        checks::prompt(&prompt, self.model(), self.limits(), tokens_max)?;
        let job = match prompt {
            Prompt::Tokens(tokens) => return Ok(tokens),
            Prompt::Text(text) => TextJob::Prompt { text, tokens_max },
            Prompt::Chat(messages) => TextJob::Chat { messages, tokens_max },
        };
        let text = self.shared.parts.text.clone();
        let encoded = self.on_pool(move || text.encode(&job)).await?;
        let tokens = encoded.map_err(|error| self.not_encoded(error))?;
        checks::tokens(&tokens, self.model())?;
        Ok(tokens)
    }

    /// Runs `work` on the pool that tokenises, or refuses it when too much waits there.
    pub(crate) async fn on_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SubmitError> {
        let Ok(waiting) = self.shared.pool_queue.clone().try_acquire_owned() else {
            return Err(self.busy("too many prompts wait to be tokenised"));
        };
        let Ok(running) = self.shared.pool.clone().acquire_owned().await else {
            return Err(self.unavailable("the server has stopped"));
        };
        // The work goes on when the caller is dropped or told off, so the permits go with it.
        let work = move || {
            let _permits = (waiting, running);
            work()
        };
        tokio::select! {
            biased;
            done = tokio::task::spawn_blocking(work) => done.map_err(|_| {
                SubmitError::Failed { message: "work on a prompt was cut off".into() }
            }),
            () = self.shared.parts.commands.closed() => {
                Err(self.unavailable("the server has stopped"))
            }
        }
    }
}

/// A seed for a request that brings none, from the process's hash keys.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
