//! Shows how a model fits: as a table for people, or as JSON for programs.

use binfer_shard::fit::{Choice, Memory, RankLedger};
use binfer_shard::{DType, Description, ModelSpec};
use serde_json::{Value, json};

use super::{Bandwidth, FitOutcome, FitReport, FitRow, PlanArgs};
use crate::cli::table::table;

impl FitReport<'_> {
    /// The table, what it assumes, and the rank count that `--tp auto` would choose.
    pub(super) fn text(
        &self,
        args: &PlanArgs,
        described: &Description,
        rows: &[FitOutcome],
    ) -> String {
        let head = [
            "TP",
            "fits",
            "weights/rank",
            "KV/token/rank",
            "KV tokens",
            "contexts",
            "ms/token",
            "tok/s",
        ];
        let mut head = head.to_vec();
        let has_experts = self.spec.layers.iter().any(|layer| layer.ffn.moe().is_some());
        if has_experts {
            head.push("experts/rank");
        }
        let mut cells = rows.iter().flat_map(|(_, row)| row).map(FitRow::cells).collect::<Vec<_>>();
        for (cells, row) in cells.iter_mut().zip(rows.iter().flat_map(|(_, row)| row)) {
            cells.extend(has_experts.then(|| row.experts()));
        }
        let mut text = self.heading(args, described) + &table(&head, &cells);
        let mut line = |line: String| text.extend([&line, "\n"]);
        for (world, cause) in
            rows.iter().filter_map(|(world, row)| Some((world, row.as_ref().err()?)))
        {
            line(format!("TP {world}: {cause}"));
        }
        if let Some(Bandwidth { bytes_per_s, is_measured }) = self.bandwidth {
            let (most, gigabytes) = (self.limits.sequences_max, bytes_per_s / 1e9);
            let how = if is_measured { ", measured just now; --bandwidth replaces it" } else { "" };
            line(format!(
                "ms/token: for one full context; tok/s: for as many as fit, {most} at most; by the \
                 bandwidth of memory alone ({gigabytes:.0} GB/s{how})"
            ));
        }
        if let Some(card) = args.gpu.filter(|card| !card.is_served()) {
            line(format!("{}: no kernels are for it, compute capability 8.0 is needed", card.name));
        }
        line(match &self.auto {
            Ok(Choice { world, reason }) => format!("--tp auto: {world} ({reason})"),
            Err(error) => format!("--tp auto: {error}"),
        });
        text
    }

    /// Three lines about model, memory and context.
    fn heading(&self, args: &PlanArgs, described: &Description) -> String {
        let (spec, limits) = (self.spec, &self.limits);
        let parameters = count(spec.parameters());
        let assumed =
            if described.assumed { " (weights not seen, config.json says so)" } else { "" };
        let (layers, bytes) = (spec.layers.len(), size(spec.weight_bytes()));
        let (model, architecture) = (&args.model, &spec.architecture);
        let dtypes = dtypes(spec).join(" + ");
        let memory = match limits.memory {
            Memory::Devices(bytes) => {
                let name = args.gpu.map_or("", |card| card.name);
                let each = format!("{name} {}", size(bytes));
                format!("cards: {} each, of which a tenth is left alone", each.trim_start())
            }
            Memory::Host(host) => {
                let limits = self.host_limits.iter().map(|limits| format!("\nlimits: {limits}"));
                let free = size(host.free_bytes);
                let limits: String = limits.collect();
                format!("host: {free} free, of which a quarter is for KV{limits}")
            }
        };
        let (context_max, kv_dtype) = (limits.context_max, self.kv_dtype);
        format!(
            "{model}: {architecture}, {layers} layers, {parameters} parameters, {dtypes}, \
             {bytes}{assumed}\n{memory}\ncontexts of {context_max} tokens, KV cache in {kv_dtype}\n"
        )
    }

    /// Everything in bytes and seconds.
    pub(super) fn json(&self, model: &str, described: &Description, rows: &[FitOutcome]) -> Value {
        let (spec, limits) = (self.spec, &self.limits);
        let memory = match limits.memory {
            Memory::Devices(bytes) => json!({ "device_bytes": bytes }),
            Memory::Host(host) => json!({ "host_free_bytes": host.free_bytes }),
        };
        let rows: Vec<Value> = rows
            .iter()
            .map(|(world, row)| match row {
                Ok(row) => row.json(),
                Err(cause) => {
                    json!({ "tp": world, "fits": false, "error": cause.to_string() })
                }
            })
            .collect();
        let auto = match &self.auto {
            Ok(Choice { world, reason }) => json!({ "tp": world, "reason": reason }),
            Err(cause) => json!({ "error": cause.to_string() }),
        };
        json!({
            "model": model,
            "architecture": spec.architecture,
            "parameters": spec.parameters(),
            "weight_bytes": spec.weight_bytes(),
            "dtypes": dtypes(spec),
            "weights_seen": !described.assumed,
            "context": limits.context_max,
            "kv_dtype": self.kv_dtype,
            "memory": memory,
            "bandwidth_bytes_per_s": self.bandwidth.map(|known| known.bytes_per_s),
            "bandwidth_measured": self.bandwidth.is_some_and(|known| known.is_measured),
            "plans": rows,
            "auto": auto,
        })
    }
}

impl FitRow {
    fn cells(&self) -> Vec<String> {
        let ledger = &self.ledger;
        let missing = ledger.missing_bytes;
        let fits =
            if missing == 0 { "yes".to_owned() } else { format!("no, {} short", size(missing)) };
        let most = |of: fn(&RankLedger) -> u64| ledger.ranks.iter().map(of).max().unwrap_or(0);
        let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        vec![
            self.world.to_string(),
            fits,
            size(most(|rank| rank.weight_bytes)),
            size(most(|rank| rank.kv_position_bytes)),
            ledger.kv_tokens.to_string(),
            ledger.contexts.to_string(),
            known(self.alone_s.map(|seconds| format!("{:.2}", seconds * 1e3))),
            known(self.together_per_s.map(|speed| format!("{speed:.0}"))),
        ]
    }

    /// Experts of a layer on a rank, from the fewest to the most.
    fn experts(&self) -> String {
        let held = self.ledger.ranks.iter().map(|rank| rank.experts);
        let (least, most) = (held.clone().min().unwrap_or(0), held.max().unwrap_or(0));
        if least == most { most.to_string() } else { format!("{least} to {most}") }
    }

    fn json(&self) -> Value {
        let ledger = &self.ledger;
        let ranks = ledger.ranks.iter().map(|rank| {
            json!({
                "driver_bytes": rank.driver_bytes,
                "weight_bytes": rank.weight_bytes,
                "experts": rank.experts,
                "activation_bytes": rank.activation_bytes,
                "kv_bytes_per_token": rank.kv_position_bytes,
                "kv_window_bytes_per_sequence": rank.kv_window_bytes,
                "kv_bytes": rank.kv_bytes,
            })
        });
        json!({
            "tp": self.world,
            "fits": ledger.missing_bytes == 0,
            "missing_bytes": ledger.missing_bytes,
            "ranks": ranks.collect::<Vec<_>>(),
            "kv_tokens": ledger.kv_tokens,
            "contexts": ledger.contexts,
            "seconds_per_token": self.alone_s,
            "tokens_per_second_together": self.together_per_s,
        })
    }
}

/// The types of the weights, each once.
fn dtypes(spec: &ModelSpec) -> Vec<&'static str> {
    let parts = spec.tensors.iter().flat_map(|tensor| &tensor.parts);
    let mut dtypes: Vec<_> = parts.map(|part| part.dtype).collect();
    dtypes.sort_unstable();
    dtypes.dedup();
    dtypes.into_iter().map(DType::name).collect()
}

/// A number of parameters for people.
fn count(parameters: u64) -> String {
    let parameters = parameters as f64;
    let units = [(1e9, "B"), (1e6, "M"), (1e3, "K")];
    match units.into_iter().find(|(unit, _)| parameters >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", parameters / unit),
        None => format!("{parameters}"),
    }
}

/// A number of bytes for people.
fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().map(|(bits, name)| (f64::from(1 << bits), name));
    match unit.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}
