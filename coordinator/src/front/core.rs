//! From a prompt to an admitted request: check, render, tokenise, submit.
//!
//! Rendering and tokenising run on a bounded pool, so that a long prompt delays no stream, and
//! more of them than the pool may queue are refused at once. Ranges are checked here and not in
//! the fronts, so that all fronts accept the same requests.

use super::answer_stream::AnswerStream;
use super::checks;
use super::error::SubmitError;
use super::generate_request::{GenerateRequest, Prompt};
use super::info::{CoreLimits, ModelInfo, Readiness};
use super::outbox::Outbox;
use super::stream_buffer::{ReadCounter, ReadMode, StreamBuffer};
use super::{ServeCommand, Submit};
use crate::sched::{Refused, Request, RequestId};
use crate::text::TextError;
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
    /// Shared with the serve loop's `Readers`.
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
        let end_ids = parts.model.end_ids.as_slice().into();
        let limits = &parts.limits;
        let pool = Arc::new(Semaphore::new(limits.tokenizing_max));
        let queue = limits.tokenizing_max + limits.tokenizing_queue_max;
        let pool_queue = Arc::new(Semaphore::new(queue));
        let next_id = AtomicU64::new(1);
        let context_max = AtomicU32::new(parts.model.context_max);
        let shared = Shared { parts, end_ids, next_id, context_max, pool, pool_queue };
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

    /// No sequence is longer than this: the cache holds no more.
    pub fn limit_context(&self, positions: u32) {
        self.shared.context_max.fetch_min(positions, Ordering::Relaxed);
    }

    /// Whether requests are taken now.
    pub fn readiness(&self) -> Readiness {
        self.shared.parts.readiness.borrow().clone()
    }

    /// The core's bounds.
    pub fn limits(&self) -> &CoreLimits {
        &self.shared.parts.limits
    }

    /// What a token adds to a text; of one that is no part of a text, its name.
    pub fn token_bytes(&self, token: Token) -> Cow<'_, [u8]> {
        self.shared.parts.text.facts().token_bytes(token)
    }

    /// Brings answers to their streams, for ever. A front runs it beside whatever reads them: without
    /// it no stream hears anything.
    pub async fn deliver(&self) -> Infallible {
        self.shared.parts.outbox.deliver().await
    }

    /// Submits a request and waits until the scheduler took it. Dropping the stream cancels it.
    pub async fn generate(&self, ask: GenerateRequest) -> Result<AnswerStream, SubmitError> {
        self.check_ready()?;
        let sampling = checks::sampling(ask.sampling)?;
        let biases = checks::biases(ask.biases, self.model())?;
        checks::stop(&ask.stop, self.limits())?;
        let named = self.shared.parts.text.facts().control_tokens(&ask.stop);
        let (end_ids, ignore_eos) = checks::ends(named, &self.shared.end_ids, ask.ignore_eos);
        let param = ask.prompt.param();
        let prompt = self.tokens(ask.prompt).await?;
        let max_tokens = checks::room(prompt.len(), ask.max_tokens, self.context_max(), param)?;
        let id = RequestId(self.shared.next_id.fetch_add(1, Ordering::Relaxed));
        let request = Request {
            id,
            prompt,
            max_tokens,
            end_ids,
            ignore_eos,
            sampling,
            biases,
            logprobs: checks::logprobs(ask.top_logprobs, self.model()),
            seed: ask.seed.unwrap_or_else(drawn_seed),
            choice: 0,
            salt: self.model().salt,
            queue_deadline: None,
        };
        self.submit(request, ask.stop, ask.read_mode, param).await
    }

    async fn submit(
        &self,
        request: Request,
        stop: Vec<String>,
        read_mode: ReadMode,
        param: &'static str,
    ) -> Result<AnswerStream, SubmitError> {
        let parts = &self.shared.parts;
        let read_counter = Arc::new(ReadCounter::default());
        let mailbox = Arc::new(StreamBuffer::new(read_mode, Arc::clone(&read_counter)));
        let stream = AnswerStream::open(&request, Arc::clone(&mailbox), &self.shared.parts);
        let submit = Submit { request, stop, read_counter };
        // The serve loop takes it soon, and the queue alone says whether there is room.
        if parts.commands.send(ServeCommand::Submit(Box::new(submit))).await.is_err() {
            return Err(self.unavailable("the server has stopped"));
        }
        let answered = |answer: Result<(), Refused>| {
            answer.map(|()| stream).map_err(|why| self.refusal(&why, param))
        };
        tokio::select! {
            biased;
            answer = mailbox.admitted() => return answered(answer),
            // The loop is over; its last words may still lie in the outbox.
            () = parts.commands.closed() => parts.outbox.deal_out_handed(),
        }
        tokio::select! {
            biased;
            answer = mailbox.admitted() => answered(answer),
            // Nobody is left who could answer.
            () = std::future::ready(()) => Err(self.unavailable("the server has stopped")),
        }
    }

    fn refusal(&self, why: &Refused, param: &'static str) -> SubmitError {
        match why {
            Refused::QueueFull { .. } => self.busy(&why.to_string()),
            Refused::Draining => self.unavailable(&why.to_string()),
            Refused::Duplicate(_) => SubmitError::Failed { message: why.to_string() },
            Refused::Sampling(cause) => checks::sampling_error(cause.clone()),
            Refused::NothingToGenerate => SubmitError::invalid("max_tokens", why.to_string()),
            Refused::TooLong { .. } | Refused::NeverFits { .. } => {
                SubmitError::TooLong { param, message: why.to_string() }
            }
            Refused::EmptyPrompt => SubmitError::invalid(param, why.to_string()),
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
        let param = prompt.param();
        let job = match prompt {
            Prompt::Tokens(tokens) => return Ok(tokens),
            Prompt::Text(text) => TextJob::Prompt { text, tokens_max },
            Prompt::Chat(messages) => TextJob::Chat { messages, tokens_max },
        };
        let text = self.shared.parts.text.clone();
        let encoded = self.on_pool(move || text.encode(&job)).await?;
        let tokens = encoded.map_err(|error| self.not_encoded(error, param))?;
        checks::tokens(&tokens, self.model(), param)?;
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
        // The work goes on when the caller is dropped, so the permits go with it.
        let work = move || {
            let _permits = (waiting, running);
            work()
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| SubmitError::Failed { message: "work on a prompt was cut off".into() })
    }

    fn not_encoded(&self, error: TextError, param: &'static str) -> SubmitError {
        match error {
            TextError::TooLong(cause) => {
                SubmitError::too_long(param, self.context_max(), &format!("{param} has {cause}"))
            }
            TextError::Template(cause) => SubmitError::invalid("messages", cause),
            TextError::Resting(_) => self.unavailable(&error.to_string()),
            error => SubmitError::Failed { message: error.to_string() },
        }
    }

    fn busy(&self, message: &str) -> SubmitError {
        let retry_after = self.limits().retry_after;
        SubmitError::Busy { message: message.to_owned(), retry_after }
    }

    fn unavailable(&self, message: &str) -> SubmitError {
        let retry_after = self.limits().retry_after;
        SubmitError::Unavailable { message: message.to_owned(), retry_after }
    }
}

/// Every request without a seed draws its own from the process's hash keys.
fn drawn_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
