//! `binfer run`: one prompt, streamed to stdout; statistics to stderr.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use binfer_console as console;
use binfer_proto::Sampling;
use clap::Args;
use tokio::sync::oneshot;

use crate::config::ConfigError;
use crate::error::LaunchError;
use crate::front::{
    AnswerStream, FailKind, FrontContext, GenerateRequest, MaxTokens, Prompt, ReadMode,
    StreamEvent, SubmitError,
};
use crate::launch::{LaunchOptions, launch};
use crate::model_args::ModelArgs;
use crate::report::Verbosity;
use crate::sched::{Finish, Usage};
use crate::text::Message;

/// Arguments of `binfer run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The model and how to run it.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to continue; `-` reads stdin [default: stdin where that is no terminal, else a story's
    /// beginning]
    pub prompt: Option<String>,
    /// Tokens to generate at most
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub max_tokens: u32,
    /// 0 takes the most likely token
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Draw from the N most likely tokens; 0 is all
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub top_k: u32,
    /// Draw from the smallest set of tokens that together are this likely
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Draw from tokens at least this share as likely as the most likely one; 0 is all
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Divides the logits of tokens in prompt and answer; 1 is off
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens in the answer
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Taken from the logits of tokens in the answer, as often as they occur there
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Makes a drawn answer repeatable
    #[arg(long)]
    pub seed: Option<u64>,
    /// Ask it as a chat message, rendered by the model's template
    #[arg(long)]
    pub use_template: bool,
    /// Read control tokens that occur in the message as text; those that the template writes
    /// steer the model all the same
    #[arg(long)]
    pub split_special_tokens: bool,
}

/// What is continued where nobody says anything.
const PROMPT_DEFAULT: &str = "Once upon a time, there was a";
/// Longest prompt that is read of stdin; a context of a million tokens has less.
const PROMPT_BYTES_MAX: u64 = 64 << 20;
/// What to know about a prompt that a model which was trained on chats gets without its template.
const RAW_PROMPT: &str =
    "the prompt is continued as it is; --use-template asks it as a chat message";
/// Why there is no answer.
const ENDED_AT_ONCE: &str = "the answer is empty: the model's first token was one that ends it";

/// How an answer ended, where nothing broke.
enum RunOutcome {
    /// All of it was written.
    Whole(Finish, Usage),
    /// By a signal. (Or by the loss of a worker: then the launcher has the last word.)
    Interrupted,
}

/// Streams the answer.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let sampling = sampling(args).map_err(LaunchError::Config)?;
    let options = LaunchOptions {
        args: &args.model,
        drain: Duration::ZERO,
        random_weights: false,
        split_special_tokens: args.split_special_tokens,
    };
    let own = args.clone();
    let ended = launch(options, async move |context| front(context, &own, sampling).await)?;
    match (ended.value?, ended.signal) {
        (RunOutcome::Interrupted, Some(signal)) => Err(LaunchError::Interrupted(signal).into()),
        (RunOutcome::Interrupted | RunOutcome::Whole(..), _) => Ok(ExitCode::SUCCESS),
    }
}

/// Checks what needs no model.
fn sampling(args: &RunArgs) -> Result<Sampling, ConfigError> {
    if args.max_tokens == 0 {
        return Err(ConfigError("--max-tokens: expected 1 or more".into()));
    }
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
    };
    sampling.checked().map_err(|error| ConfigError(error.to_string()))
}

fn request(args: &RunArgs, sampling: Sampling, text: String) -> GenerateRequest {
    GenerateRequest {
        prompt: if args.use_template {
            Prompt::Chat(vec![Message::new("user", text)])
        } else {
            Prompt::Text(text)
        },
        max_tokens: MaxTokens::AtMost(args.max_tokens),
        sampling,
        biases: Vec::new(),
        top_logprobs: None,
        seed: args.seed,
        stop: Vec::new(),
        ignore_eos: false,
        read_mode: ReadMode::Streamed,
    }
}

/// PROMPT, or what comes through stdin while weights are loaded. A thread reads it that nobody waits
/// for: a signal ends the command also where nothing comes.
async fn prompt(said: Option<String>) -> Result<String, LaunchError> {
    let (send, read) = oneshot::channel();
    let reader = move || drop(send.send(prompt_of(said.as_deref(), std::io::stdin())));
    std::thread::Builder::new().name("stdin".into()).spawn(reader)?;
    read.await.map_err(|_| LaunchError::Defect("the reader of stdin has panicked".into()))?
}

fn prompt_of(said: Option<&str>, stdin: impl Read + IsTerminal) -> Result<String, LaunchError> {
    match said {
        Some("-") => {}
        Some(prompt) => return Ok(prompt.to_owned()),
        None if stdin.is_terminal() => return Ok(PROMPT_DEFAULT.to_owned()),
        None => {}
    }
    let wrong = |cause: &str| ConfigError(format!("the prompt on stdin {cause}"));
    let mut bytes = Vec::new();
    stdin.take(PROMPT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(wrong("is empty; give it as an argument").into());
    }
    if bytes.len() as u64 > PROMPT_BYTES_MAX {
        return Err(wrong("has more than 64 MiB").into());
    }
    String::from_utf8(bytes).map_err(|error| wrong(&format!("is no text: {error}")).into())
}

async fn front(context: FrontContext, args: &RunArgs, sampling: Sampling) -> Result<RunOutcome> {
    tokio::select! {
        answered = answer(context.clone(), args, sampling) => answered,
        () = context.closed() => Ok(RunOutcome::Interrupted),
    }
}

async fn answer(
    mut context: FrontContext,
    args: &RunArgs,
    sampling: Sampling,
) -> Result<RunOutcome> {
    let tell = |words: &str| {
        if args.model.verbosity() != Verbosity::Quiet {
            console::message(words);
        }
    };
    let text = prompt(args.prompt.clone()).await?;
    if !context.wait_until_ready().await {
        return Ok(RunOutcome::Interrupted);
    }
    let core = &context.core;
    if !args.use_template && core.has_template() {
        tell(RAW_PROMPT);
    }
    let began = Instant::now();
    let mut stream = match core.generate(request(args, sampling, text)).await {
        Err(SubmitError::Unavailable { .. }) => return Ok(RunOutcome::Interrupted),
        admitted => admitted?,
    };
    let answered = print(&mut stream).await?;
    if let RunOutcome::Whole(finish, usage) = &answered {
        if *finish == Finish::Stop && usage.generated == 1 {
            tell(ENDED_AT_ONCE);
        }
        let seconds = began.elapsed().as_secs_f64();
        let speed = f64::from(usage.generated) / seconds.max(1e-9);
        tell(&format!("[{} tokens, {seconds:.2} s, {speed:.0} tok/s]", usage.generated));
    }
    Ok(answered)
}

/// Writes pieces as they come.
async fn print(stream: &mut AnswerStream) -> Result<RunOutcome> {
    loop {
        match stream.next().await {
            StreamEvent::Text(text) => console::print(&text)?,
            StreamEvent::Done { finish, usage } => {
                console::print("\n")?;
                return Ok(RunOutcome::Whole(finish, usage));
            }
            StreamEvent::Failed { kind: FailKind::Shutdown, .. } => {
                return Ok(RunOutcome::Interrupted);
            }
            StreamEvent::Failed { message, .. } => bail!(LaunchError::Answer(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_stdin_that_is_no_terminal_is_the_prompt_unless_one_is_given() {
        let path = std::env::temp_dir().join(format!("binfer-prompt-{}", std::process::id()));
        let stdin = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            File::open(&path).unwrap()
        };
        assert_eq!(prompt_of(None, stdin(b"Why?\n")).unwrap(), "Why?\n");
        assert_eq!(prompt_of(Some("-"), stdin(b"Why?")).unwrap(), "Why?");
        assert_eq!(prompt_of(Some("Said"), stdin(b"Why?")).unwrap(), "Said");
        let refused = |said, bytes: &[u8]| prompt_of(said, stdin(bytes)).unwrap_err().to_string();
        assert!(refused(None, b"").contains("stdin is empty; give it as an argument"));
        assert!(refused(Some("-"), b"\xff").contains("is no text"));
        std::fs::remove_file(&path).unwrap();
    }
}
