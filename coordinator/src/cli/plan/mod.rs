//! `binfer plan`: what a model takes at each rank count on given memory, and how fast it can be.
//!
//! It reads only settings and headers, here or on the hub, and loads and downloads nothing. The
//! numbers are those of the ledger that `serve` prints. The bandwidth of the host's memory is
//! measured where it is not given.

mod bandwidth;
mod show;

use std::process::ExitCode;

use anyhow::Result;
use binfer_console as console;
use binfer_shard::fit::{self, CARDS, Card, Choice, FitLimits, KvBudget, Ledger, Memory};
use binfer_shard::{Description, ModelSpec};
use clap::Args;

use crate::config::{self, ConfigError};
use crate::error::LaunchError;
use crate::gpu_probe::{Gpu, usable_gpus};
use crate::locate::describe;
use crate::memory::{HostBudget, KernelFiles};
use crate::model_args::Dtype;
use crate::options::step_defaults;
use crate::parallel::SHARDS_REASON;
use crate::report::{Report, Verbosity};

/// The rank counts that get a row.
const WORLDS: [u32; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
/// The default number of cards, and of ranks on the host.
const CARDS_DEFAULT: u32 = 8;
const HOST_RANKS_DEFAULT: u32 = 4;

/// Arguments of `binfer plan`.
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    /// As for `serve`, or a folder of which only config.json is there
    pub model: String,
    /// Branch, tag or commit of an id on the hub [default: main]
    #[arg(long)]
    pub revision: Option<String>,
    /// Memory of a card, as 80GB or 80GiB, or its name: B200, GH200, H200, H100, H100-NVL,
    /// H100-PCIe, A100, A100-40GB, L40S, L4, A10, T4, 5090, 4090 [default: the GPUs of this host;
    /// its free memory where it has none]
    #[arg(long, value_parser = parse_card)]
    pub gpu: Option<Card>,
    /// Cards that there are [default: those of this host; 8 of what --gpu names]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub gpus: Option<u32>,
    /// Positions of a sequence [default: what the model was trained for]
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<u32>,
    /// Sequences of a step [default: 64 on the CPU, 256 on a GPU, as for `serve`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_num_seqs: Option<u32>,
    /// Input tokens of a step [default: 512 on the CPU, 8192 on a GPU, as for `serve`]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_num_batched_tokens: Option<u32>,
    /// How the KV cache is stored; `auto` is bf16 on cards, f32 on the host
    #[arg(long, value_enum, default_value = "auto")]
    pub dtype: Dtype,
    /// Bandwidth of a card's, or the host's, memory in GB/s [default: that of a card by name; the
    /// host's is measured]
    #[arg(long, value_name = "GB/s")]
    pub bandwidth: Option<f64>,
    /// JSON in place of the table
    #[arg(long)]
    pub json: bool,
}

/// The value of `--gpu` cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("expected memory as 80GB or 80GiB, or one of {}", card_names())]
struct CardError;

fn card_names() -> String {
    CARDS.iter().map(|card| card.name).collect::<Vec<_>>().join(", ")
}

/// The card with this name, or one with this much memory of which nothing else is known.
fn parse_card(text: &str) -> Result<Card, CardError> {
    if let Some(card) = Card::named(text) {
        return Ok(card);
    }
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "gb" => 1e9,
        "gib" => f64::from(1 << 30),
        "mib" => f64::from(1 << 20),
        _ => 0.0,
    };
    let bytes = number.parse::<f64>().unwrap_or(0.0) * unit;
    if (1e6..1e15).contains(&bytes) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in bounds")]
        let bytes = bytes as u64;
        return Ok(Card::of_bytes(bytes));
    }
    Err(CardError)
}

impl PlanArgs {
    /// The arguments for the GPUs of this host, unless other cards were named.
    fn with_cards(&self, gpus: &[Gpu]) -> Self {
        let Some(gpu) = gpus.first().filter(|_| self.gpu.is_none()) else { return self.clone() };
        let bytes = gpus.iter().map(|gpu| gpu.bytes).min().unwrap_or(0);
        let card = Card::of_driver(&gpu.name).unwrap_or_else(|| Card::of_bytes(bytes));
        Self {
            gpu: Some(card.with_bytes(bytes)),
            gpus: self.gpus.or(u32::try_from(gpus.len()).ok()),
            ..self.clone()
        }
    }
}

/// How a model fits given memory, for all rank counts.
struct FitReport<'a> {
    spec: &'a ModelSpec,
    limits: FitLimits,
    /// The type of the KV cache.
    kv_dtype: &'static str,
    worlds: Vec<u32>,
    /// The bandwidth of a card, or of the host for all of its ranks, if known.
    bandwidth: Option<Bandwidth>,
    /// The rank count that `--tp auto` would choose, or why nothing fits.
    auto: Result<Choice, binfer_shard::Error>,
    /// The limits of the host's memory, for messages.
    host_limits: Option<String>,
}

/// The bandwidth of memory.
#[derive(Clone, Copy)]
struct Bandwidth {
    bytes_per_s: f64,
    /// The value was measured here, and not given.
    is_measured: bool,
}

/// How the model fits one rank count.
struct FitRow {
    world: u32,
    ledger: Ledger,
    /// The seconds for one token of one sequence with a full context.
    alone_s: Option<f64>,
    /// The tokens per second of as many full contexts as fit, if any do.
    together_per_s: Option<f64>,
}

/// A rank count with its row, or with the reason why the model cannot be cut for it.
type FitOutcome = (u32, Result<FitRow, binfer_shard::Error>);

/// Prints how the model fits.
pub fn run(args: &PlanArgs) -> Result<ExitCode> {
    let described = describe(&args.model, args.revision.as_deref())?;
    let report = Report::new(Verbosity::Normal);
    described.notes.iter().for_each(|note| report.line(note));
    let args = &args.with_cards(&usable_gpus());
    let plan = FitReport::new(args, &described).map_err(LaunchError::Config)?;
    let rows: Vec<FitOutcome> =
        plan.worlds.iter().map(|world| (*world, plan.row(*world))).collect();
    console::print(&if args.json {
        format!("{:#}\n", plan.json(&args.model, &described, &rows))
    } else {
        plan.text(args, &described, &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

impl<'a> FitReport<'a> {
    fn new(args: &PlanArgs, described: &'a Description) -> Result<Self, ConfigError> {
        let spec = &described.spec;
        let context_max = args.context.unwrap_or(spec.context_max);
        if !(1..=spec.context_max).contains(&context_max) {
            let trained = spec.context_max;
            return Err(ConfigError(format!(
                "--context {context_max}: expected 1 to {trained}, which the model was trained for"
            )));
        }
        if args.bandwidth.is_some_and(|bandwidth| !(bandwidth > 0.0 && bandwidth < 1e6)) {
            return Err(ConfigError("--bandwidth: expected GB/s above 0".into()));
        }
        let (sequences, tokens) = step_defaults(args.gpu.is_some());
        let sequences_max = args.max_num_seqs.unwrap_or(sequences);
        let wanted = u64::from(sequences_max) * u64::from(context_max);
        let cores = u32::try_from(config::cores()).unwrap_or(u32::MAX);
        let host = HostBudget::of(&KernelFiles::here(), cores);
        let on_host = host.memory();
        let (memory, kv_tokens_max) = match args.gpu {
            Some(card) => (Memory::Devices(card.bytes), u64::MAX),
            None => (Memory::Host(on_host), wanted),
        };
        let kv_dtype = match args.dtype {
            Dtype::Auto if args.gpu.is_some() => Dtype::Bf16,
            dtype => dtype,
        };
        let limits = FitLimits {
            memory,
            kv_budget: KvBudget::WhatFits,
            kv_element_bytes: kv_dtype.stored().bytes(),
            context_max,
            sequences_max,
            kv_tokens_max,
            tokens_per_step_max: args.max_num_batched_tokens.unwrap_or(tokens),
        };
        let default = if args.gpu.is_some() { CARDS_DEFAULT } else { HOST_RANKS_DEFAULT };
        let most = args.gpus.unwrap_or(default);
        let mut worlds: Vec<u32> = WORLDS.into_iter().filter(|world| *world < most).collect();
        worlds.push(most);
        if let Some(world) = described.shards_world {
            worlds = vec![world];
        }
        let devices = vec![args.gpu.map_or(0, |card| card.bytes); most as usize];
        let devices = if args.gpu.is_some() { devices.as_slice() } else { &[] };
        let auto = match described.shards_world {
            Some(world) => Ok(Choice { world, reason: SHARDS_REASON.to_owned() }),
            None => fit::choose(spec, devices, &limits),
        };
        let said = args.bandwidth.map(|gigabytes| gigabytes * 1e9);
        let (known, is_measured) = match (said, args.gpu) {
            (Some(said), _) => (Some(said), false),
            (None, Some(card)) => (Some(card.bytes_per_s).filter(|speed| *speed > 0.0), false),
            (None, None) => (bandwidth::measure(on_host.free_bytes.min(on_host.rank_bytes)), true),
        };
        let bandwidth = known.map(|bytes_per_s| Bandwidth { bytes_per_s, is_measured });
        Ok(Self {
            spec,
            limits,
            kv_dtype: kv_dtype.stored().name(),
            worlds,
            bandwidth,
            auto,
            host_limits: host.limits(),
        })
    }

    /// The row of a rank count, or why the model cannot be cut for it.
    fn row(&self, world: u32) -> Result<FitRow, binfer_shard::Error> {
        let ledger = Ledger::new(self.spec, world, &self.limits)?;
        let seconds = |sequences| {
            let (context, element) = (self.limits.context_max, self.limits.kv_element_bytes);
            let read = fit::step_read_bytes(self.spec, world, (sequences, context), element)?;
            let bytes = match self.limits.memory {
                Memory::Devices(_) => read.into_iter().max().unwrap_or(0),
                Memory::Host(_) => read.into_iter().sum(),
            };
            Ok(self.bandwidth.map(|bandwidth| bytes as f64 / bandwidth.bytes_per_s))
        };
        let contexts = ledger.contexts.min(u64::from(self.limits.sequences_max));
        let together = if contexts > 0 { seconds(contexts)? } else { None };
        Ok(FitRow {
            world,
            alone_s: seconds(1)?,
            together_per_s: together.map(|seconds| contexts as f64 / seconds),
            ledger,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        plan: PlanArgs,
    }

    fn gpu(name: &str, bytes: u64) -> Gpu {
        let (name, image) = (name.to_owned(), "sm_90a".to_owned());
        Gpu { ordinal: 0, name, capability: "9.0".to_owned(), bytes, image }
    }

    #[test]
    fn the_cards_of_this_host_are_planned_for_unless_others_are_named() {
        let args = |flags: &[&str]| Flags::parse_from([&["plan", "model"], flags].concat()).plan;
        let here = [gpu("NVIDIA H100 80GB HBM3", 85 << 30), gpu("NVIDIA H100 PCIe", 80 << 30)];
        let plan = args(&[]).with_cards(&here);
        let card = plan.gpu.unwrap();
        assert_eq!((card.name, card.bytes, plan.gpus), ("H100", 80 << 30, Some(2)));
        assert!(card.bytes_per_s > 3e12);
        let unknown = args(&["--gpus", "1"]).with_cards(&[gpu("NVIDIA Next", 1 << 40)]);
        assert_eq!((unknown.gpu.unwrap().bytes_per_s, unknown.gpus), (0.0, Some(1)));
        let named = args(&["--gpu", "L4"]).with_cards(&here);
        assert_eq!((named.gpu.unwrap().name, named.gpus), ("L4", None));
        assert!(args(&[]).with_cards(&[]).gpu.is_none());
    }
}
