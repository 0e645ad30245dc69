//! What a model takes on its ranks: the planner's arithmetic, against numbers worked out by hand.

use std::fs;
use std::path::{Path, PathBuf};

use binfer_shard::fit::{self, Card, FitLimits, HostMemory, KvBudget, KvDemand, Ledger, Memory};
use binfer_shard::spec::{KvKind, KvShape};
use binfer_shard::{ErrorKind, ModelSpec, describe, layouts};

/// The published settings of Qwen3-8B, without what does not matter here.
const QWEN3_8B: &str = r#"{
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16",
    "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu",
    "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000,
    "tie_word_embeddings": false, "vocab_size": 151936, "eos_token_id": 151645
}"#;
/// Of K and V in bf16.
const KV_TOKEN_BYTES: u64 = 36 * 2 * 8 * 128 * 2;
/// Its parameters, as the hub shows them.
const PARAMETERS: u64 = 8_190_735_360;

/// A folder with nothing but settings; each test its own, since they run at once.
fn settings(name: &str, text: &str) -> PathBuf {
    let thread = std::thread::current().id();
    let folder = crate::scratch(&format!("fit-{name}-{thread:?}"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), text).unwrap();
    folder
}

fn qwen3_8b() -> ModelSpec {
    let described = describe(&settings("qwen3-8b", QWEN3_8B)).unwrap();
    assert!(described.assumed);
    described.spec
}

fn tiny(name: &str) -> ModelSpec {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny").join(name);
    let described = describe(&path).unwrap();
    assert!(!described.assumed);
    described.spec
}

fn limits(memory: Memory) -> FitLimits {
    FitLimits {
        memory,
        kv_budget: KvBudget::WhatFits,
        kv_element_bytes: 2,
        context_max: 40_960,
        sequences_max: 64,
        kv_tokens_max: u64::MAX,
        tokens_per_step_max: 512,
    }
}

fn devices(gib: u64) -> Memory {
    Memory::Devices(gib << 30)
}

#[test]
fn a_published_models_size_follows_from_its_settings() {
    let spec = qwen3_8b();
    assert_eq!(spec.parameters(), PARAMETERS);
    assert_eq!(spec.weight_bytes(), PARAMETERS * 2);
}

#[test]
fn a_card_keeps_a_tenth_and_gives_the_rest_to_the_cache() {
    let spec = qwen3_8b();
    let ledger = Ledger::new(&spec, 1, &limits(devices(80))).unwrap();
    let rank = ledger.ranks[0];
    assert_eq!(rank.weight_bytes, PARAMETERS * 2);
    assert_eq!(rank.kv_position_bytes, KV_TOKEN_BYTES);
    // Residual stream, inside of the feed-forward, attention's output; logits of 64 outputs.
    assert_eq!(rank.activation_bytes, 4 * (512 * (4096 + 12_288 + 4096) + 64 * 151_936));
    let usable = (80_u64 << 30) * 9 / 10;
    assert_eq!(rank.driver_bytes, 1280 << 20);
    let left = usable - rank.driver_bytes - rank.weight_bytes - rank.activation_bytes;
    let exact = left / KV_TOKEN_BYTES;
    assert!(ledger.kv_tokens.abs_diff(exact) < 64, "{} is not {exact}", ledger.kv_tokens);
    assert_eq!(ledger.contexts, exact / 40_960);
    assert_eq!(ledger.missing_bytes, 0);

    let ledger = Ledger::new(&spec, 1, &limits(devices(16))).unwrap();
    assert_eq!((ledger.kv_tokens, ledger.contexts), (0, 0));
    let fixed = rank.driver_bytes + rank.weight_bytes + rank.activation_bytes;
    let usable = (16_u64 << 30) - (16_u64 << 30) / 10;
    assert_eq!(ledger.missing_bytes, fixed + KV_TOKEN_BYTES * 40_960 - usable);
}

#[test]
fn several_cards_leave_room_for_their_collectives() {
    let spec = qwen3_8b();
    let of = |world| Ledger::new(&spec, world, &limits(devices(80))).unwrap().ranks[0];
    assert_eq!(of(2).driver_bytes - of(1).driver_bytes, fit::COLLECTIVES_BYTES);
    let host = limits(Memory::Host(HostMemory::free(8 << 30)));
    assert_eq!(Ledger::new(&spec, 2, &host).unwrap().ranks[0].driver_bytes, 0);
}

#[test]
fn ranks_hold_all_weights_between_them_and_shared_heads_twice() {
    let spec = qwen3_8b();
    for world in [2, 3, 4, 8, 16] {
        let ledger = Ledger::new(&spec, world, &limits(devices(80))).unwrap();
        let weights: u64 = ledger.ranks.iter().map(|rank| rank.weight_bytes).sum();
        let norms = 2 * (73 * 4096 + 72 * 128) * u64::from(world - 1);
        // With 16 ranks each of 8 KV heads is on two of them.
        let doubled = if world == 16 { 2 * 36 * 2 * 8 * 128 * 4096 } else { 0 };
        assert_eq!(weights, PARAMETERS * 2 + norms + doubled, "TP {world}");
        let kv: u64 = ledger.ranks.iter().map(|rank| rank.kv_position_bytes).sum();
        assert_eq!(kv, KV_TOKEN_BYTES * if world == 16 { 2 } else { 1 });
    }
    let error = Ledger::new(&spec, 33, &limits(devices(80))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Layout);
}

#[test]
fn on_the_host_a_quarter_of_what_is_free_is_for_the_cache_of_all_ranks() {
    let spec = tiny("qwen3");
    let free_bytes = 1 << 30;
    let memory = Memory::Host(HostMemory::free(free_bytes));
    for world in 1..=4 {
        let limits = FitLimits { context_max: 512, ..limits(memory) };
        let ledger = Ledger::new(&spec, world, &limits).unwrap();
        let kv: u64 = ledger.ranks.iter().map(|rank| rank.kv_bytes).sum();
        assert!(kv <= free_bytes / 4 + (1 << 20), "TP {world}: {kv}");
        assert_eq!(ledger.missing_bytes, 0);
        // Never more than all sequences need.
        let few = FitLimits { kv_tokens_max: 640, ..limits };
        assert_eq!(Ledger::new(&spec, world, &few).unwrap().kv_tokens, 640);
        let free_bytes = 256 << 20;
        let memory = Memory::Host(HostMemory::free(free_bytes));
        let kv_budget = KvBudget::Bytes(1 << 30);
        let asked = FitLimits { memory, kv_budget, kv_tokens_max: 1 << 40, ..limits };
        let tight = Ledger::new(&spec, world, &asked).unwrap();
        let held = |rank: &fit::RankLedger| {
            rank.weight_bytes
                + rank.activation_bytes
                + rank.kv_bytes.min(1 << 30).max(512 * rank.kv_position_bytes)
        };
        // A tenth of it stays free, and each process takes a little beside tensors.
        let usable = free_bytes - free_bytes / 10 - fit::PROCESS_BYTES * (u64::from(world) + 1);
        assert_eq!(tight.missing_bytes, tight.ranks.iter().map(held).sum::<u64>() - usable);
        let fixed = tight.ranks.iter().map(|rank| rank.weight_bytes + rank.activation_bytes);
        let each = (usable - fixed.sum::<u64>()) / u64::from(world);
        let tokens = tight.ranks.iter().map(|rank| each / rank.kv_position_bytes).min();
        assert_eq!(Some(tight.kv_tokens_fit), tokens);
    }
}

#[test]
fn a_limit_leaves_less_for_the_cache_than_a_quarter_and_a_process_may_have_its_own() {
    let spec = tiny("qwen3");
    let kv = |host: HostMemory, world| {
        let limits = FitLimits { context_max: 512, ..limits(Memory::Host(host)) };
        Ledger::new(&spec, world, &limits).unwrap()
    };
    let bare = kv(HostMemory::free(1 << 30), 1).ranks[0];
    let taken = 2 * fit::PROCESS_BYTES + bare.weight_bytes + bare.activation_bytes;
    let free_bytes = (taken + (6 << 20)) * 10 / 9;
    let estimated = kv(HostMemory::free(free_bytes), 1);
    assert_eq!(estimated.kv_bytes_max, [free_bytes / 4]);
    let limited = HostMemory { is_limit: true, ..HostMemory::free(free_bytes) };
    let left = kv(limited, 1).kv_bytes_max[0];
    assert!(left < free_bytes / 4 && left.abs_diff(6 << 20) < 16, "{left}");
    assert_eq!(kv(limited, 1).missing_bytes, 0);
    let rank_bytes = bare.weight_bytes + bare.activation_bytes + (1 << 20);
    let alone = HostMemory { rank_bytes, is_limit: true, ..HostMemory::free(1 << 34) };
    assert_eq!(kv(alone, 1).kv_bytes_max, [1 << 20]);
    let none = HostMemory { rank_bytes: 1000, ..alone };
    assert_eq!((kv(none, 2).kv_tokens, kv(none, 2).kv_tokens_fit), (0, 0));
    assert!(kv(none, 2).missing_bytes > 0);
}

#[test]
fn a_window_keeps_fewer_blocks_of_a_long_context() {
    let spec = tiny("mistral");
    let windows: Vec<Option<u32>> = spec.kv_groups.iter().map(|of| of.kind.window()).collect();
    assert!(matches!(windows[..], [Some(window)] if window < 64), "{windows:?}");
    // A window of fewer positions than a block touches two blocks at most, however long the text.
    assert_eq!(fit::sequences_within(&spec, &[12], 640), 6);
    assert_eq!(fit::sequences_within(&spec, &[12], 64), 12);
    assert_eq!(fit::sequences_within(&tiny("qwen3"), &[12], 640), 1);
}

#[test]
fn layers_of_other_shapes_take_each_what_its_own_numbers_say() {
    let spec = crate::model::stack(&crate::layout::unlike_layers());
    assert_eq!(spec.kv_groups.len(), 2, "layers of one shape of cache share a group");
    let of = |world| Ledger::new(&spec, world, &limits(devices(1))).unwrap();
    let rank = of(1).ranks[0];
    assert_eq!(rank.weight_bytes, spec.weight_bytes());
    // K and V of 4 heads of 32 in two layers, and of 2 heads of 16 in the third, in bf16.
    assert_eq!(rank.kv_position_bytes, 2 * 2 * (2 * 4 * 32 + 2 * 16));
    // Residual stream, the widest feed-forward, the widest attention output; logits.
    assert_eq!(rank.activation_bytes, 4 * (512 * (64 + 1024 + 256) + 64 * 500));
    for world in 2..=8 {
        let ledger = of(world);
        let kv: u64 = ledger.ranks.iter().map(|rank| rank.kv_position_bytes).sum();
        // A KV head that ranks share is on each of them: of 4, and of 2.
        let held = |kv_heads: u32| u64::from(kv_heads.max(world));
        assert_eq!(kv, 2 * 2 * (2 * held(4) * 32 + held(2) * 16), "TP {world}");
        for (layout, rank) in layouts(&spec, world).unwrap().iter().zip(&ledger.ranks) {
            let of_group = |(group, blocks): (usize, &u32)| {
                let layers = spec.layers.iter().zip(fit::kv_shapes(&spec, layout));
                let shapes = layers.filter(|(layer, _)| layer.kv_group == group);
                let elements: u64 = shapes.map(|(_, shape)| shape.elements()).sum();
                2 * elements * u64::from(*blocks) * 64
            };
            let kv_bytes: u64 = ledger.kv_blocks.iter().enumerate().map(of_group).sum();
            assert_eq!(rank.kv_bytes, kv_bytes, "TP {world}");
        }
    }
}

#[test]
fn a_longer_context_costs_layers_with_a_window_nothing() {
    let mut spec = crate::model::stack(&crate::layout::unlike_layers());
    spec.kv_groups[0].kind = KvKind::Window(128);
    let layout = layouts(&spec, 1).unwrap().remove(0);
    let (full, windowed) = (2 * 2 * 2 * 16, 2 * 2 * 2 * 4 * 32);
    assert_eq!(fit::kv_position_bytes(&spec, &layout, 2), full);
    // A window of 128 touches three blocks.
    assert_eq!(fit::kv_window_bytes(&spec, &layout, 2, 40_000), windowed * 3 * 64);
    assert_eq!(fit::kv_window_bytes(&spec, &layout, 2, 20), windowed * 20);
    let demand = KvDemand { positions_max: u64::MAX, sequences_max: 4, tokens_per_step_max: 512 };
    for positions in [64, 640, 1216, 1280, 12_800, 1 << 20] {
        let bytes = fit::kv_bytes_for(&spec, &layout, 2, demand, positions);
        let kept = positions.min((4 * 3 + 8) * 64 + positions / 8);
        assert_eq!(bytes, full * positions + windowed * kept);
        let blocks = fit::blocks_within(&spec, &layout, 2, demand, bytes);
        assert_eq!(
            blocks.iter().map(|blocks| u64::from(*blocks)).collect::<Vec<_>>(),
            [kept.div_ceil(64), positions.div_ceil(64)]
        );
        assert_eq!(fit::kv_tokens(&spec, &blocks), positions);
        let fewer = fit::blocks_within(&spec, &layout, 2, demand, bytes - 1);
        assert!(fit::kv_tokens(&spec, &fewer) <= positions);
    }
    let ledger = Ledger::new(&spec, 1, &limits(devices(2))).unwrap();
    let rank = ledger.ranks[0];
    assert_eq!((rank.kv_position_bytes, rank.kv_window_bytes), (full, windowed * 3 * 64));
    assert!(rank.kv_bytes.abs_diff(ledger.kv_bytes_max[0]) < 64 * (full + windowed));
    assert!(ledger.kv_tokens > 3 * rank.kv_bytes / (full + windowed), "windows take no share");
    assert_eq!(ledger.contexts, ledger.kv_tokens / 40_960);
}

#[test]
fn a_latent_cache_takes_its_width_on_every_rank() {
    let mut spec = crate::model::stack(&crate::layout::unlike_layers());
    spec.kv_groups[0].shape = KvShape::Latent { width: 576 };
    for world in 1..=4 {
        for layout in layouts(&spec, world).unwrap() {
            let heads = layout.layer(2).unwrap().heads.kv_heads.len() as u64;
            let wanted = 2 * (2 * 576 + 2 * heads * 16);
            assert_eq!(fit::kv_position_bytes(&spec, &layout, 2), wanted, "TP {world}");
        }
    }
}

#[test]
fn auto_takes_the_fewest_cards_that_hold_a_full_context() {
    let spec = qwen3_8b();
    let choose = |cards: &[u64]| {
        let bytes: Vec<u64> = cards.iter().map(|gib| gib << 30).collect();
        fit::choose(&spec, &bytes, &limits(devices(1))).map(|choice| choice.world)
    };
    assert_eq!(choose(&[80; 8]).unwrap(), 1);
    assert_eq!(choose(&[25; 8]).unwrap(), 1);
    // Weights fit on one, but not with 5.6 GiB of cache.
    assert_eq!(choose(&[20; 8]).unwrap(), 2);
    assert_eq!(choose(&[11; 8]).unwrap(), 3);
    // Every rank must fit on the smallest of those taken.
    assert_eq!(choose(&[20, 11, 11]).unwrap(), 3);
    let error = choose(&[4; 4]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Layout);
    assert!(error.to_string().contains("4 card(s)"), "{error}");
    // More cards than query heads do not help.
    let error = choose(&[1; 64]).unwrap_err();
    assert!(error.to_string().contains("32 card(s)"), "{error}");
    let choice = fit::choose(&spec, &[], &limits(devices(1))).unwrap();
    assert!(choice.world == 1 && choice.reason.contains("CPU"), "{choice:?}");
}

#[test]
fn auto_wants_no_more_than_65536_positions() {
    let long = QWEN3_8B.replace("40960", "1048576");
    let spec = describe(&settings("long", &long)).unwrap().spec;
    let limits = FitLimits { context_max: spec.context_max, ..limits(devices(1)) };
    let choice = fit::choose(&spec, &[32 << 30; 2], &limits).unwrap();
    assert_eq!((choice.world, choice.reason.contains("65536 positions")), (1, true));
}

#[test]
fn a_step_reads_every_weight_once_but_the_embedding_and_the_cache_once_a_sequence() {
    let spec = qwen3_8b();
    let embedding = 2 * 151_936 * 4096;
    let read = fit::step_read_bytes(&spec, 1, (3, 1000), 2).unwrap();
    assert_eq!(read, [PARAMETERS * 2 - embedding + 3 * 1000 * KV_TOKEN_BYTES]);
    // A tied embedding is the head.
    let spec = tiny("llama31");
    assert!(spec.tied_head);
    assert_eq!(fit::step_read_bytes(&spec, 1, (0, 0), 2).unwrap(), [spec.weight_bytes()]);
    // Behind a window nothing is read.
    let spec = tiny("mistral");
    let read = |positions| fit::step_read_bytes(&spec, 2, (1, positions), 4).unwrap();
    assert_eq!(read(64), read(640));
    assert!(read(1) < read(2));
    assert_eq!(read(1).len(), layouts(&spec, 2).unwrap().len());
}

#[test]
fn cards_are_known_by_name() {
    let card = Card::named("h100").unwrap();
    assert_eq!((card.bytes >> 20, card.bytes_per_s), (81_559, 3.35e12));
    assert_eq!(Card::named("H10"), None);
}
