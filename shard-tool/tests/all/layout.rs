//! Who holds what, at every number of ranks.

use std::ops::Range;

use binfer_shard::layout::weight_bytes;
use binfer_shard::{Checkpoint, ModelSpec, RankLayout, layouts};
use proptest::prelude::*;

use crate::gguf_writer::{F32, Llama, Q4_1, SMOLLM2, TINY};
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

fn check(spec: &ModelSpec, llama: &Llama, layouts: &[RankLayout]) {
    let all = |pick: fn(&RankLayout) -> &Range<u32>| -> Vec<Range<u32>> {
        layouts.iter().map(|layout| pick(layout).clone()).collect()
    };
    cover(&all(|layout| &layout.q_heads), llama.heads);
    cover(&all(|layout| &layout.ffn), llama.inner);
    cover(&all(|layout| &layout.vocab), llama.vocab);
    let mut kv = all(|layout| &layout.kv_heads);
    let shared = layouts.len() > llama.kv_heads as usize;
    if shared {
        assert!(kv.iter().all(|heads| heads.len() == 1));
        kv.dedup();
    }
    cover(&kv, llama.kv_heads);
    let group = llama.heads / llama.kv_heads;
    for (index, layout) in layouts.iter().enumerate() {
        assert_eq!((layout.rank as usize, layout.world as usize), (index, layouts.len()));
        assert_eq!(layout.q_per_kv as usize * layout.kv_heads.len(), layout.q_heads.len());
        for (local, head) in layout.q_heads.clone().enumerate() {
            let read = layout.kv_heads.start as usize + local / layout.q_per_kv as usize;
            assert_eq!(read, (head / group) as usize, "{layout:?}");
        }
        let whole = |column: u32| column.is_multiple_of(32) || column == llama.inner;
        assert!(whole(layout.ffn.start) && whole(layout.ffn.end));
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
        layouts(&spec, world).unwrap().into_iter().map(|layout| layout.q_heads).collect()
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

#[test]
fn layers_must_be_alike() {
    let mut spec = spec("unlike", Llama { layers: 2, ..TINY });
    let binfer_shard::spec::Ffn::Glu { inner, .. } = &mut spec.layers[1].ffn;
    *inner = 64;
    assert!(layouts(&spec, 2).unwrap_err().to_string().contains("layers of different shapes"));
    spec.layers.clear();
    assert!(layouts(&spec, 2).unwrap_err().to_string().contains("without layers"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_model_at_any_number_of_ranks(
        kv_heads in 1_u32..6,
        group in 1_u32..6,
        inner_blocks in 4_u32..40,
        vocab in 1000_u32..3000,
        plain in any::<bool>(),
    ) {
        let heads = kv_heads * group;
        let type_id = if plain { F32 } else { Q4_1 };
        let (hidden, inner) = (heads * 32, inner_blocks * 32);
        let llama = Llama { layers: 2, hidden, heads, kv_heads, inner, vocab, type_id };
        let spec = spec("any", llama);
        for world in 1..=heads.min(inner_blocks) {
            check(&spec, &llama, &layouts(&spec, world).unwrap());
        }
    }
}
