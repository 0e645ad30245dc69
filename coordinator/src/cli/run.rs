//! `binfer run`: one prompt, streamed to stdout; statistics to stderr.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use binfer_proto::Sampling;
use clap::Args;

use crate::config::ConfigError;
use crate::front::{FailKind, Generate, MaxTokens, Prompt, Readiness, Reading, Reply, SubmitError};
use crate::launch::{Cluster, LaunchError, LaunchPlan, launch};
use crate::options::ModelArgs;
use crate::report::Verbosity;
use crate::sched::Usage;
use crate::text::Message;

/// Arguments of `binfer run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The model and how to run it.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to continue; `-` reads stdin
    #[arg(default_value = "Once upon a time, there was a")]
    pub prompt: String,
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
}

/// As a shell has it for a command that Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

/// How an answer ended, where nothing broke.
enum Answered {
    /// All of it was written.
    Whole(Usage),
    /// Whoever reads stdout has seen enough.
    Unread,
    /// By a signal. (Or by the loss of a worker: then the launcher has the last word.)
    Interrupted,
}

/// Streams the answer. Status 70 if the cluster was lost.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let request = request(args)?;
    let quiet = args.model.verbosity() == Verbosity::Quiet;
    let plan = LaunchPlan { args: &args.model, drain: Duration::ZERO, random_weights: false };
    match launch(plan, move |cluster| front(cluster, request, quiet))?? {
        Answered::Whole(_) | Answered::Unread => Ok(ExitCode::SUCCESS),
        Answered::Interrupted => Ok(ExitCode::from(EXIT_INTERRUPTED)),
    }
}

fn request(args: &RunArgs) -> Result<Generate> {
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
    };
    let sampling = sampling.checked().map_err(|cause| LaunchError::Config(ConfigError(cause)))?;
    if args.max_tokens == 0 {
        return Err(
            LaunchError::Config(ConfigError("--max-tokens: expected 1 or more".into())).into()
        );
    }
    let text = match args.prompt.as_str() {
        "-" => read_stdin()?,
        prompt => prompt.to_owned(),
    };
    Ok(Generate {
        prompt: if args.use_template {
            Prompt::Chat(vec![Message { role: "user".into(), content: text }])
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
        reading: Reading::Streamed,
    })
}

fn read_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("prompt from stdin")?;
    Ok(text)
}

fn front(cluster: Cluster, request: Generate, quiet: bool) -> Result<Answered> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let Cluster { core, mut readiness, closing } = cluster;
        let settled = readiness.wait_for(|state| !matches!(state, Readiness::Starting(_))).await;
        match settled.map(|state| state.clone()) {
            Ok(Readiness::Ready) => {}
            Ok(_) | Err(_) => return Ok(Answered::Interrupted),
        }
        let began = Instant::now();
        let answer = async {
            let mut stream = match core.generate(request).await {
                Err(SubmitError::Unavailable { .. }) => return Ok(Answered::Interrupted),
                answer => answer?,
            };
            print(&mut stream).await
        };
        let answered = tokio::select! {
            answered = answer => answered?,
            never = core.deliver() => match never {},
            _ = closing => return Ok(Answered::Interrupted),
        };
        if let (Answered::Whole(usage), false) = (&answered, quiet) {
            let seconds = began.elapsed().as_secs_f64();
            let speed = f64::from(usage.generated) / seconds.max(1e-9);
            eprintln!("[{} tokens, {seconds:.2} s, {speed:.0} tok/s]", usage.generated);
        }
        Ok(answered)
    })
}

/// Writes pieces as they come.
async fn print(stream: &mut crate::front::Stream) -> Result<Answered> {
    let mut out = std::io::stdout();
    loop {
        match stream.next().await {
            Reply::Text(text) => {
                if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
                    return Ok(Answered::Unread);
                }
            }
            Reply::Done { usage, .. } => {
                writeln!(out).map_err(|error| anyhow!("stdout: {error}"))?;
                return Ok(Answered::Whole(usage));
            }
            Reply::Failed { message, kind } => {
                let _ = writeln!(out);
                if kind == FailKind::Shutdown {
                    return Ok(Answered::Interrupted);
                }
                bail!("{message}");
            }
        }
    }
}
