//! `binfer bench MODEL`: prefill and decode of the real cluster, through the request core.
//!
//! Prompts are random tokens that differ in every request, so the prefix cache has none of them.
//! Prefill is timed by answers of one token. Decode is the additional time of answers of N + 1
//! tokens, divided by N.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use binfer_console as console;
use binfer_proto::Sampling;
use clap::{Args, ValueEnum};

use super::samples::Samples;
use super::script::BenchPrng;
use crate::cli::table::table;
use crate::config::ConfigError;
use crate::error::LaunchError;
use crate::front::{
    Core, End, FrontContext, GenerateRequest, MaxTokens, Prompt, ReadMode, StreamEvent,
};
use crate::launch::{LaunchOptions, launch};
use crate::model_args::ModelArgs;
use crate::text::ReasoningParserName;

/// The load: prompts, answers and how often they run.
#[derive(Args, Clone, Debug)]
pub(super) struct LoadArgs {
    /// Tokens of each prompt
    #[arg(long, default_value_t = 512, value_name = "N")]
    prompt_tokens: u32,
    /// Tokens generated after the first
    #[arg(long, default_value_t = 128, value_name = "N")]
    generate: u32,
    /// Requests at once, several numbers for several rows
    #[arg(long, default_value = "1,4,8", value_delimiter = ',', value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Vec<u32>,
    /// Measured runs; one more before them is not counted
    #[arg(long, default_value_t = 3, value_name = "N")]
    repeat: u32,
    /// Weights: the checkpoint's, or random ones for a folder with nothing but config.json
    #[arg(long, value_enum, default_value = "auto")]
    load_format: LoadFormat,
}

/// The values of `--load-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LoadFormat {
    /// The weights of the checkpoint.
    Auto,
    /// Random weights; norms are 1.
    Dummy,
}

/// Runs the cluster, measures it and prints a table.
pub(super) fn run(model: &ModelArgs, load: &LoadArgs) -> Result<ExitCode> {
    let load = load.clone();
    if [load.prompt_tokens, load.generate, load.repeat].contains(&0) {
        let cause = "--prompt-tokens, --generate and --repeat: expected 1 or more";
        return Err(LaunchError::Config(ConfigError(cause.into())).into());
    }
    let random_weights = load.load_format == LoadFormat::Dummy;
    let options = LaunchOptions {
        args: model,
        drain: Duration::ZERO,
        random_weights,
        split_special_tokens: false,
        reasoning_parser: ReasoningParserName::None,
    };
    let ended = launch(options, async move |context| front(context, &load).await)?;
    match (ended.value, ended.signal) {
        // A signal shuts the cluster down, which makes the requests fail.
        (Err(_) | Ok(BenchOutcome::Not), Some(signal)) => {
            Err(LaunchError::Interrupted(signal).into())
        }
        (measured, _) => measured.map(|_| ExitCode::SUCCESS),
    }
}

/// Whether the table was printed. If not, the launcher reports why.
enum BenchOutcome {
    All,
    Not,
}

async fn front(mut context: FrontContext, load: &LoadArgs) -> Result<BenchOutcome> {
    if !context.wait_until_ready().await {
        return Ok(BenchOutcome::Not);
    }
    let core = context.core.clone();
    tokio::select! {
        outcome = measure(&core, load) => outcome.map(|()| BenchOutcome::All),
        () = context.closed() => Ok(BenchOutcome::Not),
    }
}

async fn measure(core: &Core, load: &LoadArgs) -> Result<()> {
    let needed = u64::from(load.prompt_tokens) + u64::from(load.generate) + 1;
    let context_max = core.model().context_max;
    if needed > u64::from(context_max) {
        let cause = format!(
            "--prompt-tokens and --generate: {needed} positions with the first token, \
             {context_max} are there"
        );
        return Err(LaunchError::Config(ConfigError(cause)).into());
    }
    let mut prng = BenchPrng::new(1);
    let mut rows = Vec::new();
    for batch in load.batch.iter().copied() {
        rows.push(measure_batch(core, load, batch, &mut prng).await?);
    }
    let title = format!(
        "{}: {} prompt tokens, {} generated; median (min to max) of {} runs\n",
        core.model().name,
        load.prompt_tokens,
        load.generate,
        load.repeat
    );
    let head = ["batch", "prefill tok/s", "decode tok/s", "first token ms"];
    Ok(console::print(&(title + &table(&head, &rows)))?)
}

async fn measure_batch(
    core: &Core,
    load: &LoadArgs,
    batch: u32,
    prng: &mut BenchPrng,
) -> Result<Vec<String>> {
    let (mut prefill, mut decode, mut first) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..=load.repeat {
        let prompts = || RequestBatch { batch, prompt_tokens: load.prompt_tokens, tokens: 1 };
        let short = prompts().run(core, prng).await?;
        let long = RequestBatch { tokens: load.generate + 1, ..prompts() }.run(core, prng).await?;
        if run == 0 {
            continue; // pages, caches and clocks settle
        }
        let tokens = |each: u32| f64::from(batch) * f64::from(each);
        let all = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
        prefill.push(tokens(load.prompt_tokens) / all(&short));
        decode.push(tokens(load.generate) / (all(&long) - all(&short)).max(1e-9));
        first.extend(short.iter().map(|seconds| seconds * 1e3));
    }
    let spread = |values| Samples::new(values).spread();
    Ok(vec![batch.to_string(), spread(prefill), spread(decode), spread(first)])
}

/// Requests that run at the same time.
struct RequestBatch {
    batch: u32,
    prompt_tokens: u32,
    tokens: u32,
}

impl RequestBatch {
    /// Submits all requests at once. Returns the seconds until the end of each.
    async fn run(&self, core: &Core, prng: &mut BenchPrng) -> Result<Vec<f64>> {
        let vocab = core.model().vocab;
        let requests: Vec<GenerateRequest> = (0..self.batch)
            .map(|_| {
                let tokens = (0..self.prompt_tokens).map(|_| prng.below(vocab)).collect();
                self.request(Prompt::Tokens(tokens))
            })
            .collect();
        let began = Instant::now();
        let mut running = tokio::task::JoinSet::new();
        for request in requests {
            let core = core.clone();
            running.spawn(async move {
                answer(&core, request).await?;
                Ok(began.elapsed().as_secs_f64())
            });
        }
        running.join_all().await.into_iter().collect()
    }

    fn request(&self, prompt: Prompt) -> GenerateRequest {
        GenerateRequest {
            max_tokens: MaxTokens::Asked(self.tokens),
            seed: Some(0),
            ignore_eos: true,
            token_ids: false,
            read_mode: ReadMode::Whole,
            ..GenerateRequest::new(prompt, Sampling::GREEDY)
        }
    }
}

async fn answer(core: &Core, request: GenerateRequest) -> Result<()> {
    let mut stream = core.generate(request).await?;
    loop {
        match stream.next().await {
            StreamEvent::Text(_) => {}
            StreamEvent::End(End::Done { .. }) => return Ok(()),
            StreamEvent::End(End::Failed { message, .. }) => bail!(LaunchError::Answer(message)),
        }
    }
}
