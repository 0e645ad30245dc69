//! What is chosen for published models, format by format and card by card, against a table.
//!
//! `tests/goldens/kernel_choices.txt` has for every gemm, pair of gemms and layer of attention runs
//! of token or row counts with the same choice. It was first written by the code of 182a3d3, before
//! choices were functions of their own. `UPDATE_GOLDEN=1` writes it anew. Needs no GPU.

use std::fmt::Write;

use binfer_kernels::Target;
use binfer_kernels::chip::Chip;
use binfer_kernels::gemm::{Epilogue, GemmShape};
use binfer_kernels::skinny_gemm::{SKINNY_GEMM_KERNELS, SkinnyGemmConfig};
use binfer_kernels::stream_k_gemm::STREAM_K_KERNELS;
use binfer_proto::SlotId;

use crate::backend::StepMode;
use crate::backend::cuda::Half;
use crate::backend::cuda::attention::config::{
    AttentionConfig, AttentionDesc, DecodeConfig, RowCounts, attention_config,
};
use crate::backend::cuda::attention::latent_config::{
    ChunkCounts, LatentConfig, LatentDesc, latent_config,
};
use crate::backend::cuda::formats::WeightFormat;
use crate::backend::cuda::gemm::config::{
    GemmConfig, LmHeadConfig, gemm_config, gemm_pair_config, lm_head_config,
};
use crate::backend::cuda::gemm::desc::GemmDesc;
use crate::batch::BatchRow;

const GOLDEN: &str = "goldens/kernel_choices.txt";

const CARDS: [(&str, Chip); 3] = [
    ("H200 sm_90a", chip(Target::Sm90a, 132, 227)),
    ("A100 sm_80", chip(Target::Sm80, 108, 163)),
    ("RTX-4090 compute_80", chip(Target::Compute80, 128, 99)),
];

const fn chip(target: Target, multiprocessors: u32, shared_kib: u32) -> Chip {
    Chip { target, multiprocessors, shared_bytes_max: shared_kib << 10 }
}

/// A rank's part of a model.
struct Model {
    name: &'static str,
    ranks: u32,
    hidden: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    inner: u32,
    vocab: u32,
}

const fn model(
    (name, ranks): (&'static str, u32),
    [hidden, inner, vocab]: [u32; 3],
    [heads, kv_heads, head_dim]: [u32; 3],
) -> Model {
    Model { name, ranks, hidden, heads, kv_heads, head_dim, inner, vocab }
}

const MODELS: [Model; 7] = [
    model(("qwen3-1.7b", 1), [2048, 6144, 151_936], [16, 8, 128]),
    model(("qwen3-8b", 1), [4096, 12_288, 151_936], [32, 8, 128]),
    model(("llama-3.1-8b", 1), [4096, 14_336, 128_256], [32, 8, 128]),
    model(("llama-3.1-70b tp 2", 2), [8192, 14_336, 64_128], [32, 4, 128]),
    model(("smollm2-135m", 1), [576, 1536, 49_152], [9, 3, 64]),
    model(("qwen2.5-0.5b", 1), [896, 4864, 151_936], [14, 2, 64]),
    model(("odd", 1), [60, 100, 301], [3, 1, 20]),
];

/// Ranks' parts of models with latent attention: query heads, elements of a query head that do not
/// rotate, of a latent and of a rotated part.
const LATENT_MODELS: [(&str, [u32; 4]); 5] = [
    ("deepseek-v2-lite", [16, 128, 512, 64]),
    ("deepseek-v2-lite tp 3", [6, 128, 512, 64]),
    ("deepseek-v3 tp 2", [64, 128, 512, 64]),
    ("deepseek-v3 tp 8", [16, 128, 512, 64]),
    ("odd", [3, 21, 70, 10]),
];
/// Of rows before a chunk: none, and those of a long conversation.
const CHUNK_STARTS: [usize; 2] = [0, 32_768];

const HALVES: [(&str, Half); 2] = [("bf16", Half::Bf16), ("f16", Half::F16)];

/// A gemm of any number of tokens on operands that are aligned to 256 bytes.
#[derive(Clone, Copy)]
struct AnyGemm {
    n: u32,
    k: u32,
    epilogue: Epilogue,
    out_stride: u32,
}

impl AnyGemm {
    fn desc(self, m: u32, half: Half) -> GemmDesc {
        let Self { n, k, epilogue, out_stride } = self;
        let format = WeightFormat::Dense(half);
        GemmDesc {
            shape: GemmShape { m, n, k, epilogue },
            half,
            format,
            weight_stride: format.stride(k as usize) as u32,
            out_stride,
            x_alignment: 256,
            weight_alignment: 256,
            out_alignment: 256,
        }
    }
}

impl Model {
    /// Of a layer, in the order of a step, and the head's.
    fn gemms(&self) -> [(&'static str, AnyGemm); 5] {
        let gemm = |n, k, epilogue, out_stride| AnyGemm { n, k, epilogue, out_stride };
        let qkv = (self.heads + 2 * self.kv_heads) * self.head_dim;
        // Of a rank that is not the first.
        let out = if self.ranks > 1 { Epilogue::StoreF32 } else { Epilogue::AddF32 };
        let logits = if self.ranks > 1 { self.vocab.next_multiple_of(64) } else { self.vocab };
        let (hidden, inner) = (self.hidden, self.inner);
        [
            ("qkv", gemm(qkv, hidden, Epilogue::Store, qkv)),
            ("out", gemm(hidden, self.heads * self.head_dim, out, hidden)),
            ("gate_up", gemm(2 * inner, hidden, Epilogue::Glu, inner)),
            ("down", gemm(hidden, inner, out, hidden)),
            ("lm_head", gemm(self.vocab, hidden, Epilogue::StoreF32, logits)),
        ]
    }

    fn attention(&self) -> AttentionDesc {
        AttentionDesc {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            rotary_dim: self.head_dim,
            block_tokens: 64,
            alignment: 256,
        }
    }
}

fn skinny(config: &SkinnyGemmConfig) -> String {
    let SkinnyGemmConfig { kernel, tile_n, stages, cluster, blocks, rounds, shared_bytes } = config;
    let name = SKINNY_GEMM_KERNELS[*kernel].variant;
    format!(
        "skinny {name} tile {tile_n} stages {stages} cluster {cluster} blocks {blocks} \
         rounds {rounds} shared {shared_bytes}"
    )
}

fn gemm(config: &GemmConfig) -> String {
    match config {
        GemmConfig::Skinny(config) => skinny(config),
        GemmConfig::Fp8(config) => format!("{config:?}"),
        GemmConfig::StreamK(config) => {
            format!("stream-k {} blocks {}", STREAM_K_KERNELS[config.kernel].variant, config.blocks)
        }
        GemmConfig::Library => "library".to_owned(),
        GemmConfig::Reference => "reference".to_owned(),
    }
}

fn lm_head(config: &LmHeadConfig) -> String {
    match config {
        LmHeadConfig::Statistics(config) => format!("statistics {}", skinny(config)),
        LmHeadConfig::Logits(config) => gemm(config),
    }
}

fn attention(config: &AttentionConfig) -> String {
    let AttentionConfig::Paged(paged) = config else { return "reference".to_owned() };
    let decode = |config: DecodeConfig| {
        let DecodeConfig { rows, blocks, cluster, shared_bytes } = config;
        let shared = shared_bytes - 4 * rows;
        format!(", decode blocks {blocks} cluster {cluster} shared {shared} + 4 a row")
    };
    let prefill = paged.prefill_blocks.map(|blocks| format!(", prefill blocks {blocks}"));
    format!("paged{}{}", paged.decode.map_or(String::new(), decode), prefill.unwrap_or_default())
}

fn latent_attention(config: &LatentConfig) -> String {
    let LatentConfig::Tiled(tiled) = config else { return "reference".to_owned() };
    let decode = tiled.decode.map_or(String::new(), |decode| {
        let shared = decode.shared_bytes - 4 * decode.rows;
        let (blocks, stages) = (decode.blocks, decode.stages);
        format!(", decode blocks {blocks} stages {stages} shared {shared} + 4 a row")
    });
    let prefill = tiled.prefill;
    let (tokens, stages, shared) = (prefill.tile_tokens, prefill.stages, prefill.shared_bytes);
    let expanded = tiled.expanded.map_or(String::new(), |expanded| {
        format!(", expanded heads {} blocks {}", expanded.heads, expanded.blocks)
    });
    format!("tiled{decode}, prefill tokens {tokens} stages {stages} shared {shared}{expanded}")
}

fn write_latent(text: &mut String, title: &str, chip: &Chip, sizes: [u32; 4]) {
    let [heads, nope, latent_dim, rope_dim] = sizes;
    let desc = LatentDesc {
        heads,
        nope,
        value_dim: nope,
        latent_dim,
        rope_dim,
        block_tokens: 64,
        alignment: 256,
        workspace_bytes: 256 << 20,
    };
    let config = |rows, chunks| latent_attention(&latent_config(&desc, chip, rows, chunks));
    by_rows(text, title, |rows| config(rows, ChunkCounts::default()));
    let counts: Vec<u32> = (2..=320).chain([512, 1024, 2048, 8192]).collect();
    for start in CHUNK_STARTS {
        runs(text, &format!("{title}, a chunk after {start}"), &counts, |count| {
            let row = BatchRow { slot: SlotId(0), first: 0, count: count as usize, start };
            config(RowCounts { decode: 0, all: 1 }, ChunkCounts::of(&[row]))
        });
    }
}

/// Writes runs of numbers for which `of` says the same.
fn runs(text: &mut String, title: &str, numbers: &[u32], of: impl Fn(u32) -> String) {
    writeln!(text, "{title}").unwrap();
    let all: Vec<(u32, String)> = numbers.iter().map(|number| (*number, of(*number))).collect();
    for run in all.chunk_by(|(_, one), (_, other)| one == other) {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        writeln!(text, "  {}-{} {}", first.0, last.0, first.1).unwrap();
    }
}

/// The same for both modes; for graphs only where something differs.
fn modes(text: &mut String, title: &str, of: impl Fn(u32, StepMode) -> String) {
    let eager: Vec<u32> = (1..=320).chain([512, 1024, 2048, 8192]).collect();
    let graph: Vec<u32> = (1..=256).collect();
    runs(text, &format!("{title}, eager"), &eager, |m| of(m, StepMode::Eager));
    if graph.iter().any(|m| of(*m, StepMode::Graph) != of(*m, StepMode::Eager)) {
        runs(text, &format!("{title}, graph"), &graph, |m| of(m, StepMode::Graph));
    }
}

fn write(text: &mut String, title: &str, chip: &Chip, model: &Model) {
    let gemms = model.gemms();
    let (layer, [(_, head)]) = gemms.split_at(4) else { unreachable!("five gemms") };
    for (name, any) in layer {
        modes(text, &format!("{title}, {name}"), |m, mode| {
            gemm(&gemm_config(&any.desc(m, Half::Bf16), chip, mode))
        });
    }
    modes(text, &format!("{title}, lm_head"), |m, mode| {
        lm_head(&lm_head_config(&head.desc(m, Half::Bf16), chip, mode, model.ranks > 1))
    });
    let graph: Vec<u32> = (1..=256).collect();
    for (name, half) in HALVES.into_iter().filter(|_| model.ranks == 1) {
        for (first, second) in [(layer[1], layer[2]), (layer[3], layer[0])] {
            runs(text, &format!("{title}, {} and {}, {name}", first.0, second.0), &graph, |m| {
                let descs = [first, second].map(|(_, any)| any.desc(m, half));
                let pair = gemm_pair_config(&descs[0], &descs[1], chip, StepMode::Graph);
                let alone = descs.map(|desc| gemm_config(&desc, chip, StepMode::Graph));
                assert_eq!([pair.first, pair.second], alone, "a pair's kernels are each one's own");
                let fused =
                    pair.fused_norm.map(|norm| format!("fused, {} partials", norm.partials));
                fused.unwrap_or_else(|| "apart".to_owned())
            });
        }
    }
    by_rows(text, &format!("{title}, attention"), |rows| {
        attention(&attention_config(&model.attention(), chip, rows))
    });
}

/// By decode rows alone and with a chunk.
fn by_rows(text: &mut String, title: &str, of: impl Fn(RowCounts) -> String) {
    for (what, chunks) in [("decode rows", 0), ("decode rows and a chunk", 1)] {
        let rows: Vec<u32> = (1 - chunks..=256).chain([512, 1023, 1024, 1025]).collect();
        runs(text, &format!("{title}, {what}"), &rows, |decode| {
            of(RowCounts { decode, all: decode + chunks })
        });
    }
}

#[test]
fn choices_are_those_of_the_table() {
    let mut text = String::new();
    for (card, chip) in &CARDS {
        for model in &MODELS {
            write(&mut text, &format!("{card}, {}", model.name), chip, model);
        }
        for (name, sizes) in LATENT_MODELS {
            write_latent(&mut text, &format!("{card}, {name}, latent attention"), chip, sizes);
        }
    }
    let places = ["../tests", "tests"].map(std::path::Path::new);
    let place = places.into_iter().find(|place| place.is_dir());
    let place = place.expect("run in the repository or in worker/").join(GOLDEN);
    if std::env::var("UPDATE_GOLDEN").is_ok() {
        std::fs::write(&place, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&place).unwrap();
    let (mut title, lines) = ("", text.lines().zip(golden.lines()));
    for (ours, known) in lines {
        title = if ours.starts_with(' ') { title } else { ours };
        assert_eq!(ours, known, "{title}");
    }
    assert_eq!(text.lines().count(), golden.lines().count());
}
