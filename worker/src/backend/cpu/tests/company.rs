//! A token's logits have the same bits alone and in company, in chunks of any size, on any number
//! of threads, in blocks of any size and place; and nothing of a neighbour's comes through.

use std::sync::Arc;

use binfer_proto::{BlockId, Token};
use binfer_shard::DType;
use binfer_shard::spec::{ActivationFn, KvShape, Rope, RopeScaling};

use super::{KvDtype, Level, Piece, Random, Rig, batch, output, place};
use crate::backend::args::{
    AttendArgs, EmbedArgs, HeadArgs, LinearOutArgs, NormLinearArgs, SampleArgs, Tensor,
};
use crate::backend::{Backend, KvLayerLayout, StepOutcome, Weight};

const HIDDEN: usize = 64;
const INNER: usize = 96;
const VOCAB: usize = 160;
const TOKENS_MAX: usize = 600;
/// The embedding of this token is not a number.
const POISON: Token = 159;
const EPS: f32 = 1e-5;

/// One layer between embedding and head, with weights of all types.
struct Model {
    rig: Rig,
    embed: Weight,
    norm: Weight,
    qkv: Weight,
    qkv_bias: Weight,
    q_norm: Weight,
    out: Weight,
    gate_up: Weight,
    down: Weight,
    down_bias: Weight,
    head: Weight,
    block_tokens: usize,
}

impl Model {
    fn new(level: Level, threads: usize, kv_dtype: KvDtype, block_tokens: usize) -> Self {
        let mut rig = Rig::new(level, threads, kv_dtype);
        let mut table = rig.random.packed(DType::F32, VOCAB, HIDDEN);
        table[POISON as usize * HIDDEN * 4..].as_chunks_mut().0.fill(f32::NAN.to_le_bytes());
        let embed = rig.weight_of(&[(DType::F32, VOCAB)], HIDDEN, 0..HIDDEN, &[table]).weight;
        let mut weight = |parts: &[(DType, usize)], cols| rig.weight(parts, cols, 0..cols).weight;
        let norm = weight(&[(DType::F32, 1)], HIDDEN);
        let qkv = weight(&[(DType::Q4_1, 64), (DType::F16, 32), (DType::BF16, 32)], HIDDEN);
        let qkv_bias = weight(&[(DType::F32, 96), (DType::F16, 32)], 1);
        let q_norm = weight(&[(DType::F32, 1)], 16);
        let out = weight(&[(DType::Q4_1, HIDDEN)], HIDDEN);
        let gate_up = weight(&[(DType::Q4_1, INNER), (DType::Q4_1, INNER)], HIDDEN);
        let down = weight(&[(DType::Q8_0, HIDDEN)], INNER);
        let down_bias = weight(&[(DType::F16, HIDDEN)], 1);
        let head = weight(&[(DType::Q8_0, VOCAB)], HIDDEN);
        let kv = KvLayerLayout {
            kv_group: 0,
            blocks: 4096 / block_tokens,
            block_tokens,
            shape: KvShape::Heads { kv_heads: 2, head_dim: 16 },
        };
        rig.allocate(TOKENS_MAX * (HIDDEN + 128 + HIDDEN + VOCAB), VOCAB, vec![kv]);
        Self {
            rig,
            embed,
            norm,
            qkv,
            qkv_bias,
            q_norm,
            out,
            gate_up,
            down,
            down_bias,
            head,
            block_tokens,
        }
    }

    /// Runs a step with an output per sequence; returns logits of each and the outcome.
    fn step(&mut self, pieces: &[Piece<'_>]) -> (Vec<Vec<u32>>, StepOutcome) {
        let mut batch = batch(pieces);
        let tokens = batch.tokens.len();
        for row in &batch.rows {
            let position = (row.start + row.count) as u32;
            batch.outputs.push(output(row.slot.0, row.first + row.count - 1, position));
        }
        self.rig.backend.upload(Arc::new(batch)).unwrap();
        let shapes = [(tokens, HIDDEN), (tokens, 128), (tokens, HIDDEN), (pieces.len(), VOCAB)];
        let (at, _) = place(&shapes);
        let [x, intermediate, attn_out, logits] = at[..] else { unreachable!() };
        self.forward(x, intermediate, attn_out, logits);
        self.rig.backend.sample(&SampleArgs { logits }).unwrap();
        let bits: Vec<u32> = self.rig.read(logits).iter().map(|x| x.to_bits()).collect();
        (bits.chunks(VOCAB).map(<[u32]>::to_vec).collect(), self.rig.outcome())
    }

    fn forward(&mut self, x: Tensor, intermediate: Tensor, attn_out: Tensor, logits: Tensor) {
        let (norm, eps, backend) = (self.norm, EPS, &mut self.rig.backend);
        let rope = Rope { theta: 10_000.0, dims: 16, scaling: RopeScaling::None };
        let inner = intermediate.with_cols(INNER);
        let embed = EmbedArgs { table: self.embed, first_token: 0, out: x };
        backend.embed(&embed).unwrap();
        let (weight, bias) = (self.qkv, Some(self.qkv_bias));
        let args = NormLinearArgs { x, norm, eps, weight, bias, glu: None, out: intermediate };
        backend.norm_linear(&args).unwrap();
        let args = AttendArgs {
            qkv: intermediate,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            q_norm: Some(self.q_norm),
            k_norm: Some(self.q_norm),
            norm_eps: eps,
            rope,
            layer: 0,
            kv_group: 0,
            window: None,
            sinks: None,
            out: attn_out,
        };
        backend.attend(&args).unwrap();
        let (weight, bias, residual, out) = (self.out, None, x, x);
        backend
            .linear_out(&LinearOutArgs { x: attn_out, weight, bias, residual, out, next: None })
            .unwrap();
        let (weight, glu, out) = (self.gate_up, Some(ActivationFn::Silu), inner);
        backend.norm_linear(&NormLinearArgs { x, norm, eps, weight, bias, glu, out }).unwrap();
        let (weight, bias, out) = (self.down, Some(self.down_bias), x);
        backend
            .linear_out(&LinearOutArgs { x: inner, weight, bias, residual, out, next: None })
            .unwrap();
        let args = HeadArgs { x, norm, eps, weight: self.head, first_token: 0, logits };
        backend.head(&args).unwrap();
    }

    /// A table from `first` on, each block `stride` further.
    fn table(&self, first: usize, stride: usize) -> Vec<BlockId> {
        let blocks = 4096 / self.block_tokens;
        let each = TOKENS_MAX.div_ceil(self.block_tokens);
        (0..each).map(|i| BlockId(((first + i * stride) % blocks) as u32)).collect()
    }

    /// Logits after each prompt's last token, fed alone in chunks of `chunk`.
    fn alone(&mut self, prompt: &[Token], chunk: usize) -> Vec<u32> {
        let table = self.table(3, 5);
        let mut logits = Vec::new();
        for (index, tokens) in prompt.chunks(chunk).enumerate() {
            let piece = Piece { slot: 1, start: index * chunk, tokens, table: &table };
            logits = self.step(&[piece]).0.remove(0);
        }
        logits
    }
}

fn prompt(seed: u64, length: usize) -> Vec<Token> {
    let mut random = Random(seed);
    (0..length).map(|_| random.below(POISON as usize) as Token).collect()
}

#[test]
fn chunks_threads_and_block_sizes_do_not_show_in_the_bits() {
    let prompt = prompt(3, 530);
    for level in Level::available() {
        for kv_dtype in [KvDtype::F32, KvDtype::F16, KvDtype::BF16] {
            let whole = Model::new(level, 1, kv_dtype, 64).alone(&prompt, 530);
            let cases = [(1, 64, 512), (2, 64, 17), (2, 16, 512), (1, 32, 100), (2, 128, 530)];
            for (threads, block_tokens, chunk) in cases {
                let mut model = Model::new(level, threads, kv_dtype, block_tokens);
                let case = format!("{level:?} {kv_dtype:?} {threads} {block_tokens} {chunk}");
                assert_eq!(model.alone(&prompt, chunk), whole, "{case}");
            }
        }
        let whole = Model::new(level, 1, KvDtype::F32, 64).alone(&prompt[..150], 150);
        let single = Model::new(level, 2, KvDtype::F32, 64).alone(&prompt[..150], 1);
        assert_eq!(single, whole, "{level:?} one token a step");
    }
}

/// The first sequence alone, then with six others, one of which is not a number.
#[test]
fn company_does_not_show_in_the_bits() {
    for level in Level::available() {
        let prompt_of = |index: usize| prompt(index as u64 + 10, 20 + 17 * index);
        let first = prompt_of(0);
        let alone = Model::new(level, 1, KvDtype::F32, 64).alone(&first, 13);
        let mut model = Model::new(level, 2, KvDtype::F32, 64);
        let mut prompts: Vec<_> = (0..7).map(prompt_of).collect();
        prompts[3][2] = POISON;
        // Seven tables of ten blocks that interleave.
        let tables: Vec<_> = (0..7).map(|index| model.table(index, 7)[..9].to_vec()).collect();
        let pieces: Vec<_> = (0..7)
            .map(|index| Piece {
                slot: index as u32,
                start: 0,
                tokens: &prompts[index],
                table: &tables[index],
            })
            .collect();
        let (logits, outcome) = model.step(&pieces);
        assert_eq!(logits[0], alone, "{level:?}");
        let finite: Vec<_> = outcome.sampled.iter().map(|sampled| sampled.finite).collect();
        assert_eq!(finite, [true, true, true, false, true, true, true], "{level:?}");
        // The blocks of the one that was not a number, given to the next sequence.
        let piece = Piece { slot: 8, start: 0, tokens: &first, table: &tables[3] };
        assert_eq!(model.step(&[piece]).0[0], alone, "{level:?} in a dead sequence's blocks");
    }
}
