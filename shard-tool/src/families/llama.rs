//! The llama architecture: RMS norm, grouped-query attention with rope, SiLU-gated FFN, no biases.
//!
//! Llama 2 and 3, `SmolLM2` and whatever else llama.cpp's converter calls "llama". Rope scaling,
//! experts, biases and windows are refused by name.

use std::path::Path;

use super::refuse_unknown_keys;
use super::tensors::{Line, Tensors};
use crate::spec::{
    Act, BLOCK_TOKENS, Cut, Ffn, Gqa, KvGroupSpec, KvKind, LayerSpec, Mixer, Rope, RopeScaling,
    RowOrder,
};
use crate::{Error, ErrorKind, Gguf, ModelSpec};

/// Keys after `llama.` that [`Shape::read`] reads.
const UNDERSTOOD: &[&str] = &[
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
];
/// When the file does not say.
const ROPE_THETA_DEFAULT: f64 = 10_000.0;

/// Reads the spec out of GGUF metadata and binds it to the tensors.
pub(super) fn from_gguf(gguf: &Gguf, path: &Path) -> Result<ModelSpec, Error> {
    refuse_unknown_keys(&gguf.metadata, path, "llama", UNDERSTOOD)?;
    let shape = Shape::read(gguf, path)?;
    let tied_head = gguf.tensor("output.weight").is_none();
    let mut tensors = Tensors::new(gguf);
    tensors.add("embed".into(), Cut::VocabRows, vec![shape.vocab_rows("token_embd.weight")]);
    for layer in 0..shape.layers {
        shape.layer_tensors(layer, &mut tensors);
    }
    tensors.add(
        "final.norm".into(),
        Cut::Replicated,
        vec![shape.norm("output_norm.weight".into())],
    );
    if !tied_head {
        tensors.add("head".into(), Cut::VocabRows, vec![shape.vocab_rows("output.weight")]);
    }
    let layer = LayerSpec {
        mixer: Mixer::Gqa(shape.gqa),
        ffn: Ffn::Glu { inner: shape.inner, act: Act::Silu },
        kv_group: 0,
    };
    let kv_group = KvGroupSpec {
        kind: KvKind::Full,
        kv_heads: shape.gqa.kv_heads,
        head_dim: shape.gqa.head_dim,
        block_tokens: BLOCK_TOKENS,
        layers: shape.layers,
    };
    Ok(ModelSpec {
        architecture: "llama".into(),
        hidden: shape.hidden,
        vocab: shape.vocab,
        context_max: shape.context_max,
        norm_eps: shape.norm_eps,
        tied_head,
        layers: vec![layer; shape.layers as usize],
        kv_groups: vec![kv_group],
        tensors: tensors.finish(path)?,
    })
}

/// The numbers of the model, checked against each other.
struct Shape {
    layers: u32,
    hidden: u32,
    inner: u32,
    vocab: u32,
    context_max: u32,
    norm_eps: f32,
    gqa: Gqa,
    /// `heads * head_dim` and `kv_heads * head_dim`.
    q_rows: u32,
    kv_rows: u32,
}

impl Shape {
    fn read(gguf: &Gguf, path: &Path) -> Result<Self, Error> {
        let metadata = &gguf.metadata;
        let refuse = |cause: String| Error::new(ErrorKind::Mismatch, cause).file(path);
        let number = |name: &str| metadata.u32(&format!("llama.{name}"));
        let positive = |name: &str| {
            let key = format!("llama.{name}");
            match metadata.required(&key, metadata.u32(&key))? {
                0 => Err(refuse(format!("metadata key {key} is 0"))),
                value => Ok(value),
            }
        };
        let layers = positive("block_count")?;
        if layers as usize > gguf.tensors().len() {
            return Err(refuse(format!("{layers} layers, but fewer tensors than that")));
        }
        let (hidden, heads) = (positive("embedding_length")?, positive("attention.head_count")?);
        let gqa = gqa(gguf, path, hidden, heads)?;
        let rows = |heads: u32| {
            let rows = heads.checked_mul(gqa.head_dim);
            rows.ok_or_else(|| refuse(format!("{heads} heads of {} are too many", gqa.head_dim)))
        };
        let embed = gguf.tensor("token_embd.weight").map_or(0, |tensor| tensor.rows());
        let vocab = u32::try_from(embed).map_err(|_| refuse(format!("{embed} embeddings")))?;
        if let Some(said) = number("vocab_size")?
            && said != vocab
        {
            return Err(refuse(format!("llama.vocab_size is {said}, but {vocab} embeddings")));
        }
        Ok(Self {
            layers,
            hidden,
            inner: positive("feed_forward_length")?,
            vocab,
            context_max: positive("context_length")?,
            norm_eps: norm_eps(gguf, path)?,
            q_rows: rows(gqa.heads)?,
            kv_rows: rows(gqa.kv_heads)?,
            gqa,
        })
    }

    /// The tensors of one layer, in load order.
    fn layer_tensors(&self, layer: u32, tensors: &mut Tensors<'_>) {
        let name = |of: &str| format!("layers.{layer}.{of}");
        let blk = |of: &str| format!("blk.{layer}.{of}.weight");
        let rope_order = RowOrder::LlamaCppInterleaved { head_dim: self.gqa.head_dim };
        let line = |source, rows, cols, row_order| Line { source, rows, cols, row_order };
        let plain = |of: &str, rows, cols| line(blk(of), rows, cols, RowOrder::AsIs);
        let (hidden, inner) = (self.hidden, self.inner);

        tensors.add(name("attn.norm"), Cut::Replicated, vec![self.norm(blk("attn_norm"))]);
        let qkv = vec![
            line(blk("attn_q"), self.q_rows, hidden, rope_order),
            line(blk("attn_k"), self.kv_rows, hidden, rope_order),
            plain("attn_v", self.kv_rows, hidden),
        ];
        tensors.add(name("attn.qkv"), Cut::QkvHeads, qkv);
        let out = vec![plain("attn_output", hidden, self.q_rows)];
        tensors.add(name("attn.out"), Cut::HeadColumns, out);
        tensors.add(name("ffn.norm"), Cut::Replicated, vec![self.norm(blk("ffn_norm"))]);
        let gate_up = vec![plain("ffn_gate", inner, hidden), plain("ffn_up", inner, hidden)];
        tensors.add(name("ffn.gate_up"), Cut::FfnRows, gate_up);
        tensors.add(name("ffn.down"), Cut::FfnColumns, vec![plain("ffn_down", hidden, inner)]);
    }

    fn norm(&self, source: String) -> Line {
        Line { source, rows: 1, cols: self.hidden, row_order: RowOrder::AsIs }
    }

    fn vocab_rows(&self, source: &str) -> Line {
        let source = source.to_owned();
        Line { source, rows: self.vocab, cols: self.hidden, row_order: RowOrder::AsIs }
    }
}

fn gqa(gguf: &Gguf, path: &Path, hidden: u32, heads: u32) -> Result<Gqa, Error> {
    let metadata = &gguf.metadata;
    let number = |name: &str| metadata.u32(&format!("llama.attention.{name}"));
    let refuse = |cause: String| Err(Error::new(ErrorKind::Mismatch, cause).file(path));

    let kv_heads = number("head_count_kv")?.unwrap_or(heads);
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return refuse(format!("{heads} query heads cannot share {kv_heads} KV heads"));
    }
    let head_dim = number("key_length")?.unwrap_or(hidden / heads);
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return refuse(format!("a head width of {head_dim} cannot be rotated in pairs"));
    }
    let value_dim = number("value_length")?.unwrap_or(head_dim);
    if value_dim != head_dim {
        return refuse(format!("keys of width {head_dim} and values of {value_dim} differ"));
    }
    let dims = metadata.u32("llama.rope.dimension_count")?.unwrap_or(head_dim);
    if dims != head_dim {
        return refuse(format!("rope over {dims} of {head_dim} elements is not supported yet"));
    }
    let theta = metadata.float("llama.rope.freq_base")?.unwrap_or(ROPE_THETA_DEFAULT);
    if theta <= 0.0 {
        return refuse(format!("llama.rope.freq_base is {theta}"));
    }
    Ok(Gqa { heads, kv_heads, head_dim, rope: Rope { theta, dims, scaling: RopeScaling::None } })
}

#[expect(clippy::cast_possible_truncation, reason = "an f32 in the file, widened on reading")]
fn norm_eps(gguf: &Gguf, path: &Path) -> Result<f32, Error> {
    let key = "llama.attention.layer_norm_rms_epsilon";
    let eps = gguf.metadata.required(key, gguf.metadata.float(key))?;
    if (0.0..1.0).contains(&eps) {
        return Ok(eps as f32);
    }
    Err(Error::new(ErrorKind::Mismatch, format!("{key} is {eps}")).file(path))
}
