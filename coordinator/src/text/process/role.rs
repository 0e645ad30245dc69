//! The text process itself: it reads the model's files, and then does jobs until its input ends.

use super::limits::{self, JOBS_AT_ONCE};
use super::wire::{self, Job, TextJob, TextReply};
use crate::text::token_bytes_max::TokenBytesMax;
use crate::text::{ChatTemplate, TextError, TextModel, TokenizerFiles};
use anyhow::{Context, Result, anyhow, bail};
use binfer_proto::Token;
use binfer_shard::Checkpoint;
use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// Arguments of `binfer text`, which the coordinator starts.
#[derive(Args, Clone, Debug)]
pub struct TextArgs {
    /// Hugging Face folder with the tokenizer
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// GGUF file, or shards of one, with the tokenizer
    #[arg(long, value_name = "PATH", conflicts_with = "folder")]
    gguf: Option<PathBuf>,
    /// Tokens are numbers below N
    #[arg(long, value_name = "N", conflicts_with_all = ["folder", "gguf"], default_value_t = 0)]
    numbers: Token,
    /// Control tokens in messages of a chat are text
    #[arg(long)]
    split_special_tokens: bool,
    /// Process that must stay alive, or this one ends
    #[arg(long, value_name = "PID")]
    parent: i32,
}

/// Reads jobs from stdin and writes answers to stdout.
pub fn run(args: &TextArgs) -> Result<ExitCode> {
    die_with_parent(args.parent)?;
    limits::before_start().context("text: limits")?;
    let input = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let opening = args.clone();
    let opening = deep("text-open").spawn(move || started(|| open(&opening)));
    let opened = opening.context("text: a thread")?.join();
    let (model, answer) =
        opened.map_err(|_| anyhow!("text: the model's files cannot be dropped"))?;
    wire::write(&mut output, 0, &answer.to_payload()).context("text: answering")?;
    let Some(model) = model else { return Ok(ExitCode::from(78)) };
    limits::before_jobs().context("text: limits")?;
    serve(&Arc::new(model), input, output).context("text: a thread")?;
    // The coordinator has ended or needs nothing more, so nobody waits for the jobs at hand.
    std::process::exit(0)
}

fn die_with_parent(parent: i32) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("text: parent-death signal")?;
    // The parent may have died before the line above took effect.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(parent) {
        bail!("text: process {parent}, which started this process, is gone");
    }
    Ok(())
}

fn open(args: &TextArgs) -> Result<TextModel, TextError> {
    let mut model = match (&args.folder, &args.gguf) {
        (Some(folder), _) => TextModel::from_folder(folder),
        (None, Some(path)) => TextModel::from_source(&Checkpoint::open(path)?),
        (None, None) => TextModel::numbers(args.numbers),
    }?;
    if args.split_special_tokens {
        model.split_special_tokens();
    }
    Ok(model)
}

/// Runs `open`, and answers how that went. A panic is an error of the data.
fn started(open: impl FnOnce() -> Result<TextModel, TextError>) -> (Option<TextModel>, TextReply) {
    let panicked = || TextError::Data("its data contradict themselves".into());
    let opened = catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(panicked()));
    match opened {
        Ok(model) => {
            let facts = serde_json::to_vec(&**model.facts()).unwrap_or_default();
            (Some(model), TextReply::Facts(facts))
        }
        Err(error) => (None, TextReply::Refused(error.into())),
    }
}

/// Does jobs, several at once, until `input` ends. A thread that waits for a job holds the lock of
/// `input`, so the job comes directly to the thread that does it.
pub(super) fn serve(
    model: &Arc<TextModel>,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
) -> std::io::Result<()> {
    let bytes_max = TokenBytesMax::of(model);
    let (ended, end) = std::sync::mpsc::channel::<()>();
    let (input, output) = (Arc::new(Mutex::new(input)), Arc::new(Mutex::new(output)));
    for number in 0..JOBS_AT_ONCE {
        let (model, ended) = (Arc::clone(model), ended.clone());
        let (input, output) = (Arc::clone(&input), Arc::clone(&output));
        let work = move || {
            loop {
                // Not in the head of the loop: the lock would be held until the job is done.
                let job = wire::read(&mut *lock(&input));
                let Ok((id, payload)) = job else { break };
                let answer = answer(&model, bytes_max, &payload).to_payload();
                if wire::write(&mut *lock(&output), id, &answer).is_err() {
                    break;
                }
            }
            let _ = ended.send(());
        };
        deep(&format!("text-{number}")).spawn(work)?;
    }
    // The first thread that finds the end is enough: others may still have jobs.
    let _ = end.recv();
    Ok(())
}

/// A thread with the stack that templates need.
fn deep(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_owned()).stack_size(ChatTemplate::STACK_BYTES)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(model: &TextModel, bytes_max: TokenBytesMax, payload: &[u8]) -> TextReply {
    let done = catch_unwind(AssertUnwindSafe(|| match serde_json::from_slice(payload) {
        Ok(Job::Text(job)) => encoded(model, bytes_max, &job).map(TextReply::Tokens),
        Ok(Job::Files) => {
            let files = serde_json::to_vec(&TokenizerFiles::of(model)?);
            files.map(TextReply::Files).map_err(|error| TextError::Data(error.to_string()))
        }
        Err(error) => Err(TextError::Data(format!("no job: {error}"))),
    }));
    let panicked = || {
        let cause = "the model's tokenizer or template panicked over this text; its data contradict \
                     themselves";
        TextError::Data(cause.into())
    };
    match done.unwrap_or_else(|_| Err(panicked())) {
        Ok(reply) => reply,
        Err(error) => TextReply::Refused(error.into()),
    }
}

fn encoded(
    model: &TextModel,
    bytes_max: TokenBytesMax,
    job: &TextJob,
) -> Result<Vec<Token>, TextError> {
    match job {
        TextJob::Prompt { text, tokens_max, add_special } => {
            bytes_max.check(text.len(), *tokens_max)?;
            model.encode_text(text, *add_special)
        }
        TextJob::Chat { messages, tokens_max, add_special } => {
            let fits = |bytes| bytes_max.check(bytes, *tokens_max);
            model.encode_chat_within(messages, *add_special, fits)
        }
    }
}
