//! A model whose layers have unlike shapes, from its description to logits: what `binfer
//! memory_layout` counts is what is allocated, and two ranks compute what one does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;

use binfer_proto::{BlockId, Token};
use binfer_shard::fit::{FitLimits, HostMemory, KvBudget, Ledger, Memory};
use binfer_shard::spec::{
    ActivationFn, BLOCK_TOKENS, Ffn, Gqa, KvGroupSpec, KvKind, KvShape, LayerSpec, Mixer, PartSpec,
    Rope, RopeScaling, RowOrder, TensorCut, TensorSpec,
};
use binfer_shard::{DType, ModelSpec, RankLayout, layouts, local_tensors};

use super::{KvDtype, Level, Piece, Random, Rig, batch, output};
use crate::backend::cpu::cache::{CacheData, CpuLayerCache};
use crate::backend::{Backend, RankDevice};
use crate::forward::forward;
use crate::memory::{self, Activations, StepLimits};
use crate::model;
use crate::progress::StepProgress;

const HIDDEN: u32 = 64;
const VOCAB: u32 = 96;
const LIMITS: StepLimits = StepLimits { slots_max: 2, tokens_per_step_max: 80, context_max: 128 };
/// Query heads, KV heads, width of a head, columns of the feed-forward.
const LAYERS: [[u32; 4]; 3] = [[4, 2, 16, 320], [4, 2, 16, 96], [6, 3, 32, 96]];

fn tensor(name: &str, layer: Option<usize>, cut: TensorCut, shapes: &[(u32, u32)]) -> TensorSpec {
    let name = layer.map_or(name.to_owned(), |layer| format!("layers.{layer}.{name}"));
    let part = |(number, (rows, cols)): (usize, &(u32, u32))| PartSpec {
        source: format!("{name} {number}"),
        dtype: DType::F32,
        rows: *rows,
        cols: *cols,
        row_order: RowOrder::AsIs,
    };
    let parts = shapes.iter().enumerate().map(part).collect();
    TensorSpec { name, parts, cut, layer }
}

fn layer_tensors(layer: usize, [heads, kv_heads, head_dim, inner]: [u32; 4]) -> [TensorSpec; 6] {
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let of = |name, cut, shapes: &[(u32, u32)]| tensor(name, Some(layer), cut, shapes);
    [
        of("attn.norm", TensorCut::Replicated, &[(1, HIDDEN)]),
        of("attn.qkv", TensorCut::QkvHeads, &[(q, HIDDEN), (kv, HIDDEN), (kv, HIDDEN)]),
        of("attn.out", TensorCut::HeadColumns, &[(HIDDEN, q)]),
        of("ffn.norm", TensorCut::Replicated, &[(1, HIDDEN)]),
        of("ffn.gate_up", TensorCut::FfnRows, &[(inner, HIDDEN); 2]),
        of("ffn.down", TensorCut::FfnColumns, &[(HIDDEN, inner)]),
    ]
}

fn spec() -> ModelSpec {
    let layer = |[heads, kv_heads, head_dim, inner]: [u32; 4]| {
        let rope = Rope { theta: 10_000.0, dims: head_dim, scaling: RopeScaling::None };
        LayerSpec {
            mixer: Mixer::Gqa(Gqa { heads, kv_heads, head_dim, rope }),
            ffn: Ffn::Glu { inner, act: ActivationFn::Silu },
            kv_group: usize::from(head_dim == 32),
        }
    };
    let kv_group = |kind, kv_heads, head_dim, layers| KvGroupSpec {
        kind,
        shape: KvShape::Heads { kv_heads, head_dim },
        block_tokens: BLOCK_TOKENS,
        layers,
    };
    let mut tensors = vec![tensor("embed", None, TensorCut::VocabRows, &[(VOCAB, HIDDEN)])];
    tensors.extend(LAYERS.iter().enumerate().flat_map(|(at, sizes)| layer_tensors(at, *sizes)));
    tensors.push(tensor("final.norm", None, TensorCut::Replicated, &[(1, HIDDEN)]));
    ModelSpec {
        architecture: "test".into(),
        hidden: HIDDEN,
        vocab: VOCAB,
        context_max: LIMITS.context_max,
        norm_eps: 1e-5,
        tied_head: true,
        layers: LAYERS.map(layer).to_vec(),
        kv_groups: vec![kv_group(KvKind::Full, 2, 16, 2), kv_group(KvKind::Window(40), 3, 32, 1)],
        tensors,
    }
}

/// All bytes of each tensor of the checkpoint, by name.
fn checkpoint(spec: &ModelSpec) -> BTreeMap<&str, Vec<u8>> {
    let mut random = Random(3);
    let parts = spec.tensors.iter().flat_map(|tensor| &tensor.parts);
    let bytes = parts.map(|part| {
        let scale = if part.rows == 1 { 1.0 } else { (part.cols as f32).sqrt().recip() };
        let floats = random.floats((part.rows * part.cols) as usize);
        let bytes = floats.iter().flat_map(|float| (float * scale).to_le_bytes()).collect();
        (part.source.as_str(), bytes)
    });
    bytes.collect()
}

/// Loads a rank's slices of the checkpoint.
fn load(rig: &mut Rig, spec: &ModelSpec, layout: &RankLayout) -> model::Model {
    let checkpoint = checkpoint(spec);
    let tensors = local_tensors(spec, layout).unwrap();
    let mut weights = Vec::new();
    for tensor in &tensors {
        let slice = |part: &binfer_shard::LocalPart| {
            let whole = &checkpoint[part.source.as_str()];
            let pieces = part.ranges.iter().map(|at| &whole[at.start as usize..at.end as usize]);
            pieces.collect::<Vec<_>>().concat()
        };
        let bytes: Vec<Vec<u8>> = tensor.parts.iter().map(slice).collect();
        weights.push(rig.backend.pack(tensor, &bytes).unwrap());
    }
    model::assemble(spec, layout, &tensors, &weights).unwrap()
}

/// Logits of the last token of a prompt that is longer than a block and than the window.
fn logits(rig: &mut Rig, spec: &ModelSpec, layout: &RankLayout) -> Vec<f32> {
    let model = load(rig, spec, layout);
    let activations = Activations::new(spec, layout, LIMITS);
    rig.backend.allocate(&memory::lay_out(spec, layout, LIMITS, &[4, 4]).unwrap()).unwrap();
    let tokens: Vec<Token> = (0..80).map(|at| at * 7 % VOCAB).collect();
    let table = [BlockId(2), BlockId(1)];
    let mut batch = batch(&[Piece { slot: 1, start: 0, tokens: &tokens, table: &table }]);
    let mut of_window = batch.new_blocks[0].clone();
    of_window.kv_group = 1;
    batch.new_blocks.push(of_window);
    batch.outputs = vec![output(1, tokens.len() - 1, 80)];
    let batch = Arc::new(batch);
    rig.backend.upload(Arc::clone(&batch)).unwrap();
    forward(&model, &batch, &activations, &mut rig.backend, &StepProgress::default()).unwrap();
    rig.read(activations.logits.with_rows(1))
}

/// Elements of a cache in single precision.
fn elements(cache: &CpuLayerCache) -> usize {
    match &cache.data {
        CacheData::F32(pair) => pair.keys.len() + pair.values.len(),
        CacheData::BF16(_) | CacheData::F16(_) => panic!("another type of cache"),
    }
}

fn rig() -> Rig {
    Rig::new(Level::best(), 1, KvDtype::F32)
}

#[test]
fn two_ranks_compute_what_one_does() {
    let spec = spec();
    let alone = logits(&mut rig(), &spec, &layouts(&spec, 1).unwrap()[0]);
    let of_two = layouts(&spec, 2).unwrap();
    assert!(of_two.iter().all(|layout| layout.layer(0) != layout.layer(1)));
    let (send, receive) = channel::<Vec<u8>>();
    let (spec, of_two) = (&spec, &of_two);
    let [first, second] = std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            let mut rig = rig();
            let id = receive.recv().unwrap();
            let _abort = rig.backend.join(&id, 1, 2).unwrap();
            logits(&mut rig, spec, &of_two[1])
        });
        let mut rig = rig();
        let id = rig.backend.comm_id(2).unwrap();
        let _abort = rig.backend.join(&id, 0, 2).unwrap();
        send.send(id).unwrap();
        [logits(&mut rig, spec, &of_two[0]), other.join().unwrap()]
    });
    assert_eq!(first, second, "ranks agree to the bit");
    let largest = alone.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
    assert!(largest.is_finite() && largest > 0.1, "{largest}");
    for (one, two) in alone.iter().zip(&first) {
        assert!((one - two).abs() <= 1e-5 * largest, "{one} is not {two}");
    }
}

#[test]
fn what_is_planned_is_what_is_allocated() {
    let spec = spec();
    let limits = FitLimits {
        memory: Memory::Host(HostMemory::free(1 << 30)),
        kv_budget: KvBudget::Bytes(1 << 29),
        kv_element_bytes: 4,
        context_max: LIMITS.context_max,
        sequences_max: LIMITS.slots_max,
        kv_tokens_max: 300,
        tokens_per_step_max: LIMITS.tokens_per_step_max,
    };
    for world in 1..=3 {
        let ledger = Ledger::new(&spec, world, &limits).unwrap();
        assert_eq!(ledger.kv_blocks, [5, 5]);
        for (layout, planned) in layouts(&spec, world).unwrap().iter().zip(&ledger.ranks) {
            let memory_layout = memory::lay_out(&spec, layout, LIMITS, &ledger.kv_blocks).unwrap();
            let mut rig = rig();
            rig.backend.allocate(&memory_layout).unwrap();
            assert_eq!(4 * rig.backend.arena.len() as u64, planned.activation_bytes, "TP {world}");
            let elements: usize = rig.backend.caches.iter().map(elements).sum();
            assert_eq!(4 * elements as u64, planned.kv_bytes, "TP {world}");
        }
    }
}
