//! Models made up for the slicer: layers of any shape, a type for each tensor.

use binfer_shard::DType;
use binfer_shard::spec::{
    ActivationFn, Ffn, Gqa, KvGroupSpec, KvKind, KvShape, LayerSpec, Mixer, ModelSpec, PartSpec,
    Rope, RopeScaling, RowOrder, TensorCut, TensorSpec,
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
    /// A model of this one layer.
    pub(crate) fn spec(&self) -> ModelSpec {
        stack(std::slice::from_ref(self))
    }

    fn layer(&self, kv_group: usize) -> LayerSpec {
        let rope = Rope { theta: 10_000.0, dims: self.head_dim, scaling: RopeScaling::None };
        let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
        LayerSpec {
            mixer: Mixer::Gqa(Gqa { heads, kv_heads, head_dim, rope }),
            ffn: Ffn::Glu { inner: self.inner, act: ActivationFn::Silu },
            kv_group,
        }
    }

    /// The tensors of the layer of that index; those of the first have plain names.
    fn tensors(&self, layer: usize) -> Vec<TensorSpec> {
        let named =
            |name: &str| if layer == 0 { name.to_owned() } else { format!("{layer}.{name}") };
        let interleaved = RowOrder::LlamaCppInterleaved { head_dim: self.head_dim };
        let part = |name: &str, dtype, rows, cols, row_order| PartSpec {
            source: named(name),
            dtype,
            rows,
            cols,
            row_order,
        };
        let plain = |name: &str, dtype, rows, cols| part(name, dtype, rows, cols, RowOrder::AsIs);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let tensor = |name: &str, cut, parts| TensorSpec {
            name: named(name),
            parts,
            cut,
            layer: Some(layer),
        };
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
        vec![
            tensor("norm", TensorCut::Replicated, vec![plain("n", DType::F32, 1, self.hidden)]),
            tensor("qkv", TensorCut::QkvHeads, qkv),
            tensor("out", TensorCut::HeadColumns, vec![plain("o", self.out, self.hidden, q)]),
            tensor("gate_up", TensorCut::FfnRows, gate_up),
            tensor("down", TensorCut::FfnColumns, down),
        ]
    }
}

/// A model of these layers, each of its own shape; what is not of a layer is that of the first.
pub(crate) fn stack(layers: &[Model]) -> ModelSpec {
    let Model { hidden, vocab, embed, .. } = layers[0];
    let mut kv_groups: Vec<KvGroupSpec> = Vec::new();
    let mut group_of = |model: &Model| {
        let shape = KvShape::Heads { kv_heads: model.kv_heads, head_dim: model.head_dim };
        let found = kv_groups.iter().position(|kv_group| kv_group.shape == shape);
        let kv_group = found.unwrap_or(kv_groups.len());
        if found.is_none() {
            let (kind, block_tokens, layers) = (KvKind::Full, 64, 0);
            kv_groups.push(KvGroupSpec { kind, shape, block_tokens, layers });
        }
        kv_groups[kv_group].layers += 1;
        kv_group
    };
    let specs = layers.iter().map(|model| model.layer(group_of(model))).collect();
    let embed = PartSpec {
        source: "e".into(),
        dtype: embed,
        rows: vocab,
        cols: hidden,
        row_order: RowOrder::AsIs,
    };
    let embed = TensorSpec {
        name: "embed".into(),
        parts: vec![embed],
        cut: TensorCut::VocabRows,
        layer: None,
    };
    let of_layers = layers.iter().enumerate().flat_map(|(layer, model)| model.tensors(layer));
    ModelSpec {
        architecture: "test".into(),
        hidden,
        vocab,
        context_max: 1,
        norm_eps: 0.0,
        tied_head: true,
        layers: specs,
        kv_groups,
        tensors: std::iter::once(embed).chain(of_layers).collect(),
    }
}

/// The attention of a layer.
pub(crate) fn gqa(spec: &ModelSpec, layer: usize) -> Gqa {
    match spec.layers[layer].mixer {
        Mixer::Gqa(gqa) => gqa,
        Mixer::Mla(_) => unreachable!("these models have none"),
    }
}

/// A type whose blocks divide rows of `cols`.
fn dtype_for(cols: u32, wish: DType) -> DType {
    if cols.is_multiple_of(wish.block_elems()) { wish } else { DType::F16 }
}

/// Any layer, with up to nine query heads.
pub(crate) fn models() -> impl Strategy<Value = Model> {
    let hidden = prop::sample::select(vec![32_u32, 64, 96, 256, 512]);
    (hidden, 300_u32..400).prop_flat_map(|(hidden, vocab)| models_of(hidden, vocab))
}

/// One to three layers of any shapes that fit each other.
pub(crate) fn stacks() -> impl Strategy<Value = Vec<Model>> {
    let hidden = prop::sample::select(vec![32_u32, 96, 256]);
    let layers = |(hidden, vocab)| prop::collection::vec(models_of(hidden, vocab), 1..4);
    (hidden, 300_u32..400).prop_flat_map(layers)
}

/// Query heads of a model that is made up, and so ranks.
const HEADS_MAX: u32 = 9;

fn models_of(hidden: u32, vocab: u32) -> impl Strategy<Value = Model> {
    let dtype = || prop::sample::select(DType::ALL.to_vec());
    let head_dims = prop::sample::select(vec![2_u32, 16, 32, 48, 64, 80, 128]);
    let inner = prop_oneof![288_u32..480, (9_u32..12).prop_map(|blocks| blocks * 256)];
    let sizes = (1_u32..4, 1_u32..4, head_dims, inner);
    let types = ([dtype(), dtype(), dtype()], dtype(), [dtype(), dtype(), dtype()], dtype());
    (sizes, types).prop_map(move |(sizes, (qkv, out, [gate, up, down], embed))| {
        let (kv_heads, gqa_group, head_dim, inner) = sizes;
        let heads = kv_heads * gqa_group;
        let of_hidden = |wish| dtype_for(hidden, wish);
        // As many blocks as there are heads at most, or that many ranks would be refused.
        let down = if inner < HEADS_MAX * down.block_elems() { DType::F32 } else { down };
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
