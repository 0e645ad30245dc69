//! The demo model as a Hugging Face folder in bfloat16, against goldens of its own.
//!
//! The folder is made here, out of the GGUF file: dequantised, rounded, under the hub's names.
//! `make_goldens.py` rounds what transformers made of the same file.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use binfer_coordinator::text::{ControlTokens, TextData, build_tokenizer};
use binfer_shard::dequant::dequantize_row;
use binfer_shard::spec::{Ffn, Mixer};
use binfer_shard::{Checkpoint, LocalPart, ModelSpec, layouts};
use serde_json::{Value, json};

use crate::harness::{Golden, Permit, Run, Scratch, bf16_goldens, goldens, model_path};
use crate::rig::{TOKENS_PER_STEP, on_ranks_of};

/// As in `logits`.
const BOUND: f32 = 1e-3;
/// Greedy tokens that are compared.
const TOKENS: usize = 24;

const NAMES: [(&str, &str); 11] = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The hub's name of a tensor.
fn renamed(name: &str) -> String {
    let stem = name.strip_suffix(".weight").unwrap();
    let (before, of) = match stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, of)) => (format!("model.layers.{layer}."), of),
        None => (String::new(), stem),
    };
    let (_, hub) = NAMES.iter().find(|(ours, _)| *ours == of).unwrap();
    format!("{before}{hub}.weight")
}

fn config(spec: &ModelSpec) -> Value {
    let (gqa, inner) = match (spec.layers[0].mixer, spec.layers[0].ffn) {
        (Mixer::Gqa(gqa), Ffn::Glu { inner, .. }) => (gqa, inner),
        other => panic!("no dense decoder: {other:?}"),
    };
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": spec.hidden, "intermediate_size": inner,
        "num_hidden_layers": spec.layers.len(), "num_attention_heads": gqa.heads,
        "num_key_value_heads": gqa.kv_heads, "max_position_embeddings": spec.context_max,
        "rms_norm_eps": 1e-5, "rope_theta": gqa.rope.theta, "vocab_size": spec.vocab,
        "tie_word_embeddings": spec.tied_head, "torch_dtype": "bfloat16", "eos_token_id": [0, 2]
    })
}

/// A part's rows, rounded to bfloat16.
fn rounded(source: &Checkpoint, part: &LocalPart) -> Vec<u8> {
    let mut packed = vec![0; usize::try_from(part.bytes()).unwrap()];
    source.read_into(part, &mut packed).unwrap();
    let mut row = vec![0.0; part.cols as usize];
    let mut out = Vec::with_capacity(2 * row.len() * part.rows as usize);
    for packed in packed.chunks(usize::try_from(part.row_bytes()).unwrap()) {
        dequantize_row(part.dtype, packed, &mut row).unwrap();
        out.extend(row.iter().flat_map(|number| half::bf16::from_f32(*number).to_le_bytes()));
    }
    out
}

/// Writes the folder: settings, tokenizer, weights in one file.
fn write_folder(folder: &Path) {
    let source = Checkpoint::open(model_path()).unwrap();
    fs::write(folder.join("config.json"), config(source.spec()).to_string()).unwrap();
    let data = TextData::from_gguf(&source.gguf().unwrap().metadata).unwrap();
    let tokenizer = build_tokenizer(&data, ControlTokens::Parsed).unwrap();
    tokenizer.save(folder.join("tokenizer.json"), false).unwrap();
    // One rank's rows come in the hub's order.
    let layout = &layouts(source.spec(), 1).unwrap()[0];
    let tensors = source.local_tensors(layout).unwrap();
    let parts: Vec<&LocalPart> = tensors.iter().flat_map(|tensor| &tensor.parts).collect();
    let (mut header, mut end) = (json!({}), 0);
    for part in &parts {
        let (rows, cols) = (part.rows, part.cols);
        let shape = if rows == 1 { json!([cols]) } else { json!([rows, cols]) };
        let start = end;
        end += 2 * u64::from(rows) * u64::from(cols);
        header[renamed(&part.source)] =
            json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] });
    }
    let header = header.to_string();
    let mut file = BufWriter::new(File::create(folder.join("model.safetensors")).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    parts.iter().for_each(|part| file.write_all(&rounded(&source, part)).unwrap());
    file.flush().unwrap();
}

/// Largest difference to the golden's best logits, and the tokens that follow.
fn answers(folder: &Path, world: usize, goldens: &[Golden]) -> Vec<(f32, Vec<u32>)> {
    on_ranks_of(folder, world, |rig| {
        let answer = |golden: &Golden| {
            let (logits, first) = rig.feed(0, &golden.prompt_ids, TOKENS_PER_STEP);
            let off = golden.top.iter().map(|(id, expected)| (logits[*id] - expected).abs());
            let mut ids = vec![first];
            ids.extend((1..TOKENS).map(|_| rig.step(&[(0, None)]).remove(0).1));
            rig.close(0);
            (off.fold(0.0, f32::max), ids)
        };
        goldens.iter().map(answer).collect()
    })
}

#[test]
fn the_demo_model_in_bf16_equals_transformers() {
    let _permit = Permit::one();
    let scratch = Scratch::new("bf16");
    write_folder(scratch.path());
    let rounded = bf16_goldens();
    for world in [1, 2] {
        for (golden, (off, ids)) in rounded.iter().zip(answers(scratch.path(), world, &rounded)) {
            let what = format!("{}, TP {world}", golden.name);
            // Not `>`: a NaN must fail.
            assert!(off <= BOUND, "{what}: a logit off by {off}");
            assert_eq!(ids, golden.ids[..TOKENS], "{what}");
        }
    }
    // Rounding is more than the bound, so these goldens are not those of the GGUF file.
    let all = goldens();
    for golden in &rounded {
        let exact = all.iter().find(|exact| exact.name == golden.name).unwrap();
        let exact_of = |id: usize| exact.top.iter().find(|(other, _)| *other == id);
        let pairs = golden.top.iter().filter_map(|(id, logit)| Some((logit, exact_of(*id)?.1)));
        let moved = pairs.map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        assert!(moved > 10.0 * BOUND, "{}: {moved}", golden.name);
    }
    let golden = &rounded[0];
    let prompt = golden.text.as_deref().unwrap();
    let folder = scratch.path().to_str().unwrap();
    let run = Run::good(&["run", folder, prompt, "--max-tokens", "64", "--tp", "2"]);
    assert_eq!(run.stdout, golden.whole);
}
