//! Who holds what, at every number of ranks.

use std::ops::Range;

use binfer_shard::layout::{HeadLayout, LayerLayout, weight_bytes};
use binfer_shard::{Checkpoint, DType, ModelSpec, RankLayout, layouts};
use proptest::prelude::*;

use crate::gguf_writer::{F32, Llama, Q4_1, SMOLLM2, TINY};
use crate::model::{Model, stack};
use crate::scratch;

fn spec(name: &str, llama: Llama) -> ModelSpec {
    let path = scratch(&format!("layout-{name}.gguf"));
    llama.writer().write_sparse(&path);
    Checkpoint::open(path).unwrap().spec().clone()
}

/// The ranges follow each other from 0 to `whole`, none empty.
fn cover(ranges: &[Range<u32>], whole: u32) {
    let mut end = 0;
    for range in ranges {
        assert!(range.start == end && range.end > end, "{ranges:?}");
        end = range.end;
    }
    assert_eq!(end, whole, "{ranges:?}");
}

fn first(layout: &RankLayout) -> &LayerLayout {
    layout.layer(0).unwrap()
}

fn check(spec: &ModelSpec, llama: &Llama, layouts: &[RankLayout]) {
    let all = |pick: fn(&RankLayout) -> &Range<u32>| -> Vec<Range<u32>> {
        layouts.iter().map(|layout| pick(layout).clone()).collect()
    };
    cover(&all(|layout| &first(layout).heads.q_heads), llama.heads);
    cover(&all(|layout| &first(layout).ffn.columns), llama.inner);
    cover(&all(|layout| &layout.vocab), llama.vocab);
    let mut kv = all(|layout| &first(layout).heads.kv_heads);
    let shared = layouts.len() > llama.kv_heads as usize;
    if shared {
        assert!(kv.iter().all(|heads| heads.len() == 1));
        kv.dedup();
    }
    cover(&kv, llama.kv_heads);
    let gqa_group = llama.heads / llama.kv_heads;
    for (index, layout) in layouts.iter().enumerate() {
        assert_eq!((layout.rank as usize, layout.world as usize), (index, layouts.len()));
        assert_eq!(layout.layers().count(), spec.layers.len());
        assert!(layout.layers().all(|layer| layer == first(layout)), "layers are alike");
        let HeadLayout { q_heads, kv_heads, q_per_kv, .. } = &first(layout).heads;
        assert_eq!(*q_per_kv as usize * kv_heads.len(), q_heads.len());
        for (local, head) in q_heads.clone().enumerate() {
            let read = kv_heads.start as usize + local / *q_per_kv as usize;
            assert_eq!(read, (head / gqa_group) as usize, "{layout:?}");
        }
        let whole = |column: u32| column.is_multiple_of(32) || column == llama.inner;
        let columns = &first(layout).ffn.columns;
        assert!(whole(columns.start) && whole(columns.end));
        assert!(weight_bytes(spec, layout).unwrap() <= spec.weight_bytes());
    }
}

#[test]
fn the_demo_model_at_1_to_9() {
    let spec = spec("smollm2", SMOLLM2);
    let unit_bytes = spec.tensor("embed").unwrap().parts[0].row_bytes() * 32;
    for world in 1..=9 {
        let layouts = layouts(&spec, world).unwrap();
        check(&spec, &SMOLLM2, &layouts);
        let bytes: Vec<u64> =
            layouts.iter().map(|layout| weight_bytes(&spec, layout).unwrap()).collect();
        let mean = bytes.iter().sum::<u64>() / u64::from(world);
        assert!(bytes.iter().all(|bytes| bytes.abs_diff(mean) <= unit_bytes), "{bytes:?}");
    }
    let heads = |world| -> Vec<Range<u32>> {
        let q_heads = |layout: &RankLayout| first(layout).heads.q_heads.clone();
        layouts(&spec, world).unwrap().iter().map(q_heads).collect()
    };
    assert_eq!(heads(2), [0..6, 6..9]);
    assert_eq!(heads(4), [0..2, 2..3, 3..6, 6..9]);
    assert_eq!(heads(5), [0..2, 2..3, 3..5, 5..6, 6..9]);
    let message = layouts(&spec, 10).unwrap_err().to_string();
    assert_eq!(
        message,
        "10 ranks, but the model has only 9 query heads to share; use --tp 9 or less"
    );
    assert!(layouts(&spec, 0).is_err());
}

#[test]
fn too_few_blocks_to_share() {
    let spec = spec("narrow", Llama { inner: 96, ..TINY });
    check(&spec, &Llama { inner: 96, ..TINY }, &layouts(&spec, 3).unwrap());
    let message = layouts(&spec, 4).unwrap_err().to_string();
    assert!(message.contains("4 ranks, but the model has only 3 FFN blocks"), "{message}");
}

/// Three layers: a wide first one, a narrow one, and one with other heads.
pub(crate) fn unlike_layers() -> Vec<Model> {
    let narrow = Model {
        heads: 8,
        kv_heads: 4,
        head_dim: 32,
        inner: 288,
        hidden: 64,
        vocab: 500,
        qkv: [DType::F32; 3],
        out: DType::F32,
        ffn: [DType::F32; 3],
        embed: DType::F32,
    };
    let wide = Model { inner: 1024, ..narrow.clone() };
    let other_heads = Model { heads: 10, kv_heads: 2, head_dim: 16, ..narrow.clone() };
    vec![wide, narrow, other_heads]
}

#[test]
fn layers_of_other_shapes_are_divided_each_by_its_own_numbers() {
    let layers = unlike_layers();
    let spec = stack(&layers);
    for world in 1..=8 {
        let layouts = layouts(&spec, world).unwrap();
        for (index, model) in layers.iter().enumerate() {
            let of = |pick: fn(&LayerLayout) -> &Range<u32>| -> Vec<Range<u32>> {
                layouts.iter().map(|layout| pick(layout.layer(index).unwrap()).clone()).collect()
            };
            cover(&of(|layer| &layer.heads.q_heads), model.heads);
            cover(&of(|layer| &layer.ffn.columns), model.inner);
            let mut kv = of(|layer| &layer.heads.kv_heads);
            kv.dedup();
            cover(&kv, model.kv_heads);
        }
        assert_eq!(layouts[0].layers().count(), 3);
        assert_eq!(layouts[0].layer(3), None);
        let bytes: Vec<u64> =
            layouts.iter().map(|layout| weight_bytes(&spec, layout).unwrap()).collect();
        let mean = bytes.iter().sum::<u64>() / u64::from(world);
        // Half a unit of columns in each layer, and of vocabulary rows.
        let bound = (3 * 3 + 1) * 32 * 64 * 4 / 2;
        assert!(bytes.iter().all(|bytes| bytes.abs_diff(mean) <= bound), "TP {world}: {bytes:?}");
    }
    let message = layouts(&spec, 9).unwrap_err().to_string();
    assert!(message.contains("only 8 query heads"), "{message}");
}

#[test]
fn a_layer_that_is_as_another_one_is_divided_as_that_one() {
    let layers = unlike_layers();
    let alone = stack(&[layers[1].clone(), layers[1].clone()]);
    let among = stack(&[layers[1].clone(), layers[0].clone(), layers[1].clone()]);
    for world in 1..=8 {
        for layout in layouts(&alone, world).unwrap() {
            assert_eq!(layout.layer(0), layout.layer(1));
        }
        for layout in layouts(&among, world).unwrap() {
            assert_eq!(layout.layer(0), layout.layer(2));
            assert_ne!(layout.layer(0), layout.layer(1));
        }
    }
}

#[test]
fn a_model_without_layers_cannot_be_cut() {
    let mut spec = spec("none", TINY);
    spec.layers.clear();
    assert!(layouts(&spec, 2).unwrap_err().to_string().contains("without layers"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_model_at_any_number_of_ranks(
        kv_heads in 1_u32..6,
        gqa_group in 1_u32..6,
        inner_blocks in 4_u32..40,
        vocab in 1000_u32..3000,
        plain in any::<bool>(),
    ) {
        let heads = kv_heads * gqa_group;
        let type_id = if plain { F32 } else { Q4_1 };
        let (hidden, inner) = (heads * 32, inner_blocks * 32);
        let llama = Llama { layers: 2, hidden, heads, kv_heads, inner, vocab, type_id };
        let spec = spec("any", llama);
        for world in 1..=heads.min(inner_blocks) {
            check(&spec, &llama, &layouts(&spec, world).unwrap());
        }
    }
}
