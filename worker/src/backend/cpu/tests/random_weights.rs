//! Random weights: tokens are spread over experts, and every type of weight has some.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use binfer_proto::{BlockId, Token};
use binfer_shard::{Checkpoint, ModelSpec, layouts, local_tensors};
use serde_json::json;

use super::{KvDtype, Level, Piece, Random, Rig, batch, output};
use crate::backend::{Backend, RankDevice};
use crate::forward::forward;
use crate::memory::{self, Activations, StepLimits};
use crate::model;
use crate::progress::StepProgress;

const LIMITS: StepLimits = StepLimits { slots_max: 1, tokens_per_step_max: 512, context_max: 512 };

/// Runs so many random tokens through random weights; the logits of the last.
fn logits(rig: &mut Rig, spec: &ModelSpec, tokens: usize) -> Vec<f32> {
    let layout = &layouts(spec, 1).unwrap()[0];
    let tensors = local_tensors(spec, layout).unwrap();
    let weights = rig.backend.random_weights(&tensors, &mut |_| ()).unwrap();
    let model = model::assemble(spec, layout, &tensors, &weights).unwrap();
    let activations = Activations::new(spec, layout, LIMITS);
    let blocks = vec![8; spec.kv_groups.len()];
    rig.backend.allocate(&memory::lay_out(spec, layout, LIMITS, &blocks).unwrap()).unwrap();
    let mut random = Random(1);
    let prompt: Vec<Token> =
        (0..tokens).map(|_| random.below(spec.vocab as usize) as Token).collect();
    let table: Vec<BlockId> = (0..8).map(BlockId).collect();
    let mut batch = batch(&[Piece { slot: 0, start: 0, tokens: &prompt, table: &table }]);
    for kv_group in 1..spec.kv_groups.len() {
        let blocks = batch.new_blocks[0].clone();
        batch.new_blocks.push(crate::batch::BatchBlocks { kv_group, ..blocks });
    }
    batch.outputs = vec![output(0, tokens - 1, tokens as u32)];
    let batch = Arc::new(batch);
    rig.backend.upload(Arc::clone(&batch)).unwrap();
    forward(&model, &batch, &activations, &mut rig.backend, &StepProgress::default()).unwrap();
    rig.read(activations.logits.with_rows(1))
}

/// A folder with nothing but settings.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn tokens_are_spread_over_experts() {
    const EXPERTS: usize = 32;
    const TOP_K: usize = 4;
    const TOKENS: usize = 400;
    let name = format!("binfer-random-weights-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    std::fs::create_dir_all(&folder.0).unwrap();
    let config = json!({
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_act": "silu",
        "hidden_size": 256, "head_dim": 32, "num_attention_heads": 8, "num_key_value_heads": 2,
        "num_hidden_layers": 6, "num_experts": EXPERTS, "num_experts_per_tok": TOP_K,
        "moe_intermediate_size": 64, "intermediate_size": 512, "decoder_sparse_step": 1,
        "mlp_only_layers": [], "norm_topk_prob": true, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": false, "vocab_size": 1000,
        "torch_dtype": "bfloat16", "attention_bias": false
    });
    std::fs::write(folder.0.join("config.json"), config.to_string()).unwrap();
    let mut rig = Rig::new(Level::best(), 2, KvDtype::F32);
    logits(&mut rig, Checkpoint::assumed(&folder.0).unwrap().spec(), TOKENS);
    // What the last layer chose, where tokens had most time to become alike.
    let mut counts = [0; EXPERTS];
    let choices = &rig.backend.work.moe.choices()[..TOKENS * TOP_K];
    choices.iter().for_each(|choice| counts[choice.expert] += 1);
    let mean = TOKENS * TOP_K / EXPERTS;
    assert!(counts.iter().all(|count| (mean / 2..2 * mean).contains(count)), "{counts:?}");
}

#[test]
fn four_and_eight_bit_weights_have_random_ones_too() {
    for name in ["gpt-oss-mxfp4", "deepseek-v3-fp8"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let source = Checkpoint::open(root.join("../tests/fixtures/mixtures").join(name)).unwrap();
        let logits = logits(&mut Rig::new(Level::best(), 1, KvDtype::F32), source.spec(), 70);
        let largest = logits.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
        assert!(
            logits.iter().all(|logit| logit.is_finite()) && largest > 0.01,
            "{name}: {largest}"
        );
    }
}
