//! `binfer run`: one prompt, streamed to stdout; statistics to stderr.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use binfer_console as console;
use binfer_proto::Sampling;
use clap::Args;
use tokio::sync::oneshot;

use crate::cli::sampling::SamplingArgs;
use crate::config::ConfigError;
use crate::error::LaunchError;
use crate::front::{
    AnswerStream, End, FailKind, FrontContext, GenerateRequest, MaxTokens, Prompt, StreamEvent,
    SubmitError,
};
use crate::launch::{LaunchOptions, launch};
use crate::model_args::ModelArgs;
use crate::report::Verbosity;
use crate::sched::{Finish, Usage};
use crate::text::{Message, ReasoningParserName, TextKind, TextPieces};

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
    /// How tokens are sampled.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Ask it as a chat message, rendered by the model's template
    #[arg(long)]
    pub use_template: bool,
    /// Read control tokens that occur in the message as text; those that the template writes
    /// steer the model all the same
    #[arg(long)]
    pub split_special_tokens: bool,
    /// With --use-template, how the answer tells the model's reasoning from the answer
    #[arg(long, value_enum, default_value = "auto", value_name = "FORMAT")]
    pub reasoning_parser: ReasoningParserName,
}

/// The prompt where none is given and stdin is a terminal.
const PROMPT_DEFAULT: &str = "Once upon a time, there was a";
/// The longest prompt that is read from stdin, more than a context of a million tokens.
const PROMPT_BYTES_MAX: u64 = 64 << 20;
/// The note for a plain prompt to a model that has a chat template.
const RAW_PROMPT: &str =
    "the prompt is continued as it is; --use-template asks it as a chat message";
/// The note for an empty answer.
const ENDED_AT_ONCE: &str = "the answer is empty: the model's first token was one that ends it";

/// How an answer ended without an error.
enum RunOutcome {
    /// The whole answer was written.
    Whole(Finish, Usage),
    /// A signal or the loss of a worker broke the answer off. The launcher reports the latter.
    Interrupted,
}

/// Runs a prompt and streams the answer to stdout.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let sampling = checked_sampling(args).map_err(LaunchError::Config)?;
    let options = LaunchOptions {
        args: &args.model,
        drain: Duration::ZERO,
        random_weights: false,
        split_special_tokens: args.split_special_tokens,
        reasoning_parser: args.reasoning_parser,
    };
    let own = args.clone();
    let ended = launch(options, async move |context| front(context, &own, sampling).await)?;
    match (ended.value?, ended.signal) {
        (RunOutcome::Interrupted, Some(signal)) => Err(LaunchError::Interrupted(signal).into()),
        (RunOutcome::Interrupted | RunOutcome::Whole(..), _) => Ok(ExitCode::SUCCESS),
    }
}

/// Checks the flags that need no model.
fn checked_sampling(args: &RunArgs) -> Result<Sampling, ConfigError> {
    if args.max_tokens == 0 {
        return Err(ConfigError("--max-tokens: expected 1 or more".into()));
    }
    args.sampling.sampling()
}

fn request(args: &RunArgs, sampling: Sampling, text: String) -> GenerateRequest {
    let prompt = match args.use_template {
        true => Prompt::Chat(vec![Message::new("user", text)]),
        false => Prompt::Text(text),
    };
    GenerateRequest {
        max_tokens: MaxTokens::AtMost(args.max_tokens),
        seed: args.sampling.seed,
        ..GenerateRequest::new(prompt, sampling)
    }
}

/// The prompt of the argument, or of stdin, which is read while weights are loaded. The thread that
/// reads is never joined, so a signal ends the command even if nothing arrives.
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
    let answered = print(&mut stream, args.model.verbosity()).await?;
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

/// Writes the pieces of the answer as they come: the answer to stdout, reasoning to stderr.
async fn print(stream: &mut AnswerStream, verbosity: Verbosity) -> Result<RunOutcome> {
    let mut is_thinking = false;
    loop {
        match stream.next().await {
            StreamEvent::Text(text) if verbosity == Verbosity::Quiet => {
                console::print(&text.text_of(TextKind::Content))?;
            }
            StreamEvent::Text(text) => print_pieces(&text, &mut is_thinking)?,
            StreamEvent::End(End::Done { finish, usage, .. }) => {
                if is_thinking {
                    console::aside("\n");
                }
                console::print("\n")?;
                return Ok(RunOutcome::Whole(finish, usage));
            }
            StreamEvent::End(End::Failed { kind: FailKind::Shutdown, .. }) => {
                return Ok(RunOutcome::Interrupted);
            }
            StreamEvent::End(End::Failed { message, .. }) => bail!(LaunchError::Answer(message)),
        }
    }
}

/// Writes what is thought and what is said, and an empty line where thoughts end.
fn print_pieces(text: &TextPieces, is_thinking: &mut bool) -> Result<()> {
    for (kind, piece) in text.iter() {
        let was_thinking = std::mem::replace(is_thinking, kind == TextKind::Reasoning);
        match kind {
            TextKind::Reasoning => console::aside(piece),
            TextKind::Content => {
                if was_thinking {
                    console::aside("\n\n");
                }
                console::print(piece)?;
            }
        }
    }
    Ok(())
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
