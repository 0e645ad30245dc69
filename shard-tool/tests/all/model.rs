//! Models made up for the slicer: one layer of any shape, a type for each tensor.

use binfer_shard::DType;
use binfer_shard::spec::{
    Act, Cut, Ffn, Gqa, LayerSpec, Mixer, ModelSpec, Part, Rope, RopeScaling, RowOrder, TensorSpec,
};
use proptest::prelude::*;

/// Sizes and types; what is `[_; 3]` is q, k, v or gate, up, down.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) inner: u32,
    pub(crate) hidden: u32,
    pub(crate) vocab: u32,
    pub(crate) qkv: [DType; 3],
    pub(crate) out: DType,
    pub(crate) ffn: [DType; 3],
    pub(crate) embed: DType,
}

impl Model {
    pub(crate) fn spec(&self) -> ModelSpec {
        let interleaved = RowOrder::LlamaCppInterleaved { head_dim: self.head_dim };
        let part = |name: &str, dtype, rows, cols, row_order| Part {
            source: name.into(),
            dtype,
            rows,
            cols,
            row_order,
        };
        let plain = |name: &str, dtype, rows, cols| part(name, dtype, rows, cols, RowOrder::AsIs);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let tensor = |name: &str, cut, parts| TensorSpec { name: name.into(), parts, cut };
        let qkv = vec![
            part("q", self.qkv[0], q, self.hidden, interleaved),
            part("k", self.qkv[1], kv, self.hidden, interleaved),
            plain("v", self.qkv[2], kv, self.hidden),
        ];
        let gate_up = vec![
            plain("gate", self.ffn[0], self.inner, self.hidden),
            plain("up", self.ffn[1], self.inner, self.hidden),
        ];
        let down = vec![plain("down", self.ffn[2], self.hidden, self.inner)];
        let rope = Rope { theta: 10_000.0, dims: self.head_dim, scaling: RopeScaling::None };
        let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
        ModelSpec {
            architecture: "test".into(),
            hidden: self.hidden,
            vocab: self.vocab,
            context_max: 1,
            norm_eps: 0.0,
            tied_head: true,
            layers: vec![LayerSpec {
                mixer: Mixer::Gqa(Gqa { heads, kv_heads, head_dim, rope }),
                ffn: Ffn::Glu { inner: self.inner, act: Act::Silu },
                kv_group: 0,
            }],
            kv_groups: Vec::new(),
            tensors: vec![
                tensor(
                    "embed",
                    Cut::VocabRows,
                    vec![plain("e", self.embed, self.vocab, self.hidden)],
                ),
                tensor("norm", Cut::Replicated, vec![plain("n", DType::F32, 1, self.hidden)]),
                tensor("qkv", Cut::QkvHeads, qkv),
                tensor("out", Cut::HeadColumns, vec![plain("o", self.out, self.hidden, q)]),
                tensor("gate_up", Cut::FfnRows, gate_up),
                tensor("down", Cut::FfnColumns, down),
            ],
        }
    }
}

/// A type whose blocks divide rows of `cols`.
fn dtype_for(cols: u32, wish: DType) -> DType {
    if cols.is_multiple_of(wish.block_elems()) { wish } else { DType::F16 }
}

/// Any of them, with up to nine query heads.
pub(crate) fn models() -> impl Strategy<Value = Model> {
    let dtype = || prop::sample::select(DType::ALL.to_vec());
    let head_dims = prop::sample::select(vec![2_u32, 16, 32, 48, 64, 80, 128]);
    let hidden = prop::sample::select(vec![32_u32, 64, 96, 256, 512]);
    let inner = prop_oneof![288_u32..480, (9_u32..12).prop_map(|blocks| blocks * 256)];
    let sizes = (1_u32..4, 1_u32..4, head_dims, hidden, inner, 300_u32..400);
    let types = ([dtype(), dtype(), dtype()], dtype(), [dtype(), dtype(), dtype()], dtype());
    (sizes, types).prop_map(|(sizes, (qkv, out, [gate, up, down], embed))| {
        let (kv_heads, group, head_dim, hidden, inner, vocab) = sizes;
        let heads = kv_heads * group;
        let of_hidden = |wish| dtype_for(hidden, wish);
        Model {
            heads,
            kv_heads,
            head_dim,
            inner,
            hidden,
            vocab,
            qkv: qkv.map(of_hidden),
            out: dtype_for(heads * head_dim, out),
            ffn: [of_hidden(gate), of_hidden(up), dtype_for(inner, down)],
            embed: of_hidden(embed),
        }
    })
}
