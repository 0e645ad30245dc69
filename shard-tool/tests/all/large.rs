//! Large models as they were published, out of `config.json` alone: parameters, bytes, degrees.

use std::path::PathBuf;

use binfer_shard::command::Shard;
use binfer_shard::fit::{Card, FitLimits, KvBudget, Ledger, Memory, choose};
use binfer_shard::{DType, ModelSpec, describe};
use serde_json::Value;

use crate::scratch;

const CONFIGS: &str = include_str!("../../../tests/fixtures/configs/large.json");

/// What is known of a model: its name, and what `describe` makes of its settings.
struct Large {
    name: String,
    parameters: u64,
    spec: ModelSpec,
}

fn all() -> Vec<Large> {
    let configs: Vec<Value> = serde_json::from_str(CONFIGS).unwrap();
    let one = |entry: &Value| {
        let name = entry["name"].as_str().unwrap().to_owned();
        let folder: PathBuf = scratch(&format!("large-{}", name.replace([' ', '.'], "-")));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), entry["config"].to_string()).unwrap();
        let described = describe(&folder).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(described.assumed);
        Large { parameters: entry["parameters"].as_u64().unwrap(), spec: described.spec, name }
    };
    configs.iter().map(one).collect()
}

fn large(name: &str) -> ModelSpec {
    all().into_iter().find(|large| large.name == name).unwrap().spec
}

#[test]
fn settings_alone_give_the_parameters() {
    for large in all() {
        assert_eq!(large.spec.parameters(), large.parameters, "{}", large.name);
    }
}

#[test]
fn quantised_settings_give_the_types_of_weights() {
    let dtype = |spec: &ModelSpec, name: &str| spec.tensor(name).unwrap().parts[0].dtype;
    let gpt_oss = large("gpt-oss 120b");
    assert_eq!(dtype(&gpt_oss, "layers.0.ffn.experts.down"), DType::MXFP4);
    assert_eq!(dtype(&gpt_oss, "layers.0.attn.out"), DType::BF16);
    let deepseek = large("DeepSeek V3");
    for (name, wanted) in [
        ("layers.3.ffn.experts.gate_up", DType::FP8_BLOCK),
        ("layers.0.ffn.down", DType::FP8_BLOCK),
        ("layers.3.attn.kv_a", DType::FP8_BLOCK),
        ("layers.3.attn.k_b", DType::F32),
        ("layers.3.ffn.router", DType::BF16),
        ("layers.3.ffn.router.correction", DType::F32),
        ("head", DType::BF16),
    ] {
        assert_eq!(dtype(&deepseek, name), wanted, "{name}");
    }
}

/// Cards of that name, all that a host may have.
fn fitting(spec: &ModelSpec, card: &str) -> Option<u32> {
    let bytes = Card::named(card).unwrap().bytes;
    let limits = FitLimits {
        memory: Memory::Devices(bytes),
        kv_budget: KvBudget::WhatFits,
        kv_element_bytes: 2,
        context_max: spec.context_max.min(32_768),
        sequences_max: 64,
        kv_tokens_max: u64::MAX,
        tokens_per_step_max: 8192,
    };
    choose(spec, &[bytes; 16], &limits).ok().map(|choice| choice.world)
}

/// Cards of 80 and of 141 GB. Weights alone are, in GiB: gpt-oss 12.8 and 60.8, DeepSeek V3 648,
/// V2-Lite 29, Qwen3 57 and 438, Qwen2 107, Mixtral 87, Llama 131.
#[test]
fn the_fewest_cards_that_hold_each_model() {
    let all = all();
    for (name, of_80, of_141) in [
        ("gpt-oss 20b", 1, 1),
        ("gpt-oss 120b", 1, 1),
        ("DeepSeek V3", 11, 6),
        ("DeepSeek V2-Lite", 1, 1),
        ("Qwen3 30B-A3B", 1, 1),
        ("Qwen3 235B-A22B", 7, 4),
        ("Qwen2 57B-A14B", 2, 1),
        ("Mixtral 8x7B Instruct v0.1", 2, 1),
        ("Llama 3.1 70B Instruct", 3, 2),
    ] {
        let spec = &all.iter().find(|large| large.name == name).unwrap().spec;
        let found = [fitting(spec, "H100"), fitting(spec, "H200")];
        assert_eq!(found, [Some(of_80), Some(of_141)], "{name}");
    }
}

/// Bytes of a position of KV cache in bf16, by the sizes in each model's settings.
#[test]
fn a_position_takes_what_the_settings_say() {
    for (name, whole) in [
        // 18 of 36 layers see all positions: 8 heads of 64, keys and values.
        ("gpt-oss 120b", 18 * 8 * 64 * 2 * 2),
        // A latent vector of 512 and a rotated key of 64 in each of 61 layers.
        ("DeepSeek V3", 61 * 576 * 2),
        ("Qwen3 235B-A22B", 94 * 4 * 128 * 2 * 2),
        ("Mixtral 8x7B Instruct v0.1", 32 * 8 * 128 * 2 * 2),
    ] {
        let limits = FitLimits {
            memory: Memory::Devices(1 << 40),
            kv_budget: KvBudget::WhatFits,
            kv_element_bytes: 2,
            context_max: 4096,
            sequences_max: 1,
            kv_tokens_max: u64::MAX,
            tokens_per_step_max: 64,
        };
        let ledger = Ledger::new(&large(name), 1, &limits).unwrap();
        assert_eq!(ledger.ranks[0].kv_position_bytes, whole, "{name}");
    }
}

#[test]
fn ranks_hold_experts_that_do_not_divide_and_even_bytes() {
    let spec = large("gpt-oss 120b");
    let limits = FitLimits {
        memory: Memory::Devices(1 << 37),
        kv_budget: KvBudget::WhatFits,
        kv_element_bytes: 2,
        context_max: 4096,
        sequences_max: 1,
        kv_tokens_max: u64::MAX,
        tokens_per_step_max: 64,
    };
    let ledger = Ledger::new(&spec, 3, &limits).unwrap();
    let experts: Vec<u32> = ledger.ranks.iter().map(|rank| rank.experts).collect();
    assert_eq!(experts.iter().sum::<u32>(), 128);
    assert!(experts.iter().all(|held| (42..=44).contains(held)), "{experts:?}");
    let bytes: Vec<u64> = ledger.ranks.iter().map(|rank| rank.weight_bytes).collect();
    let (least, most) = (bytes.iter().min().unwrap(), bytes.iter().max().unwrap());
    assert!((most - least) * 50 < *most, "{bytes:?}");

    let shard = Shard { output: None, tp: Some(3), dry_run: true, verify: false };
    let listing = shard.listing(&spec).unwrap();
    for (rank, bytes) in bytes.iter().enumerate() {
        assert!(listing.contains(&format!("rank {rank} of 3: {bytes} bytes")), "{rank}");
    }
    let expert =
        "model.layers.35.mlp.experts.127.down_proj.weight MXFP4 [2880, 2880] 4406400 bytes";
    assert_eq!(listing.matches(expert).count(), 1);
}
