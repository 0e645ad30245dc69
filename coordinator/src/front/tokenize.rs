//! From a prompt to its tokens.
//!
//! Rendering and tokenising run on a bounded pool, so that a long prompt delays no stream, and
//! prompts beyond its queue are refused at once.

use super::checks;
use super::core::Core;
use super::error::SubmitError;
use super::generate_request::{Prompt, PromptTokens};
use crate::text::process::TextJob;
use binfer_proto::Token;

impl Core {
    /// The tokens of a prompt.
    pub(super) async fn tokens(
        &self,
        prompt: Prompt,
        add_special: Option<bool>,
        kept: PromptTokens,
    ) -> Result<Vec<Token>, SubmitError> {
        let context_max = self.context_max();
        checks::prompt(&prompt, self.model(), self.limits(), context_max)?;
        // A prompt that is cut may be longer than the context.
        let tokens_max = if kept == PromptTokens::All { context_max } else { u32::MAX };
        let job = match prompt {
            Prompt::Tokens(tokens) => return Ok(tokens),
            Prompt::Text(text) => {
                TextJob::Prompt { text, tokens_max, add_special: add_special.unwrap_or(true) }
            }
            Prompt::Chat(messages) => {
                TextJob::Chat { messages, tokens_max, add_special: add_special.unwrap_or(false) }
            }
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
