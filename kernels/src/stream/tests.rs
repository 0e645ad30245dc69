//! Plans: those that were measured, and that all of them hold together.

use super::*;

fn plan(rows: u32, inputs: u32, tokens: u32, store: StreamStore) -> StreamPlan {
    stream_plan(&StreamShape { rows, inputs, tokens, store }, 132).expect("a plan")
}

/// What sweeps on an H100 found best, or within 2 % of it.
#[test]
fn qwen3_shapes() {
    let found = |rows, inputs, tokens, store| {
        let plan = plan(rows, inputs, tokens, store);
        (plan.tile_rows, plan.cluster, plan.blocks)
    };
    assert_eq!(found(6144, 4096, 1, StreamStore::Store), (48, 1, 128));
    assert_eq!(found(4096, 4096, 1, StreamStore::AddF32), (32, 1, 128));
    assert_eq!(found(24576, 4096, 1, StreamStore::Glu), (64, 1, 128));
    assert_eq!(found(4096, 12288, 1, StreamStore::AddF32), (32, 1, 128));
    assert_eq!(found(2048, 6144, 1, StreamStore::AddF32), (32, 2, 128));
    assert_eq!(found(2048, 2048, 8, StreamStore::AddF32), (32, 2, 128));
    assert_eq!(found(4096, 4096, 64, StreamStore::AddF32), (64, 2, 128));
    assert_eq!(found(6144, 4096, 64, StreamStore::Store), (48, 1, 128));
    assert_eq!(found(151_936, 4096, 8, StreamStore::StoreF32), (64, 1, 132));
    assert_eq!(found(6144, 4096, 96, StreamStore::Store), (48, 1, 128));
    assert_eq!(found(4096, 4096, 128, StreamStore::AddF32), (64, 2, 128));
    assert_eq!(found(6144, 4096, 256, StreamStore::Store), (128, 1, 96));
    assert_eq!(found(24576, 4096, 256, StreamStore::Glu), (192, 1, 128));
    assert_eq!(found(2048, 2048, 256, StreamStore::AddF32), (48, 1, 86));
    assert_eq!(found(2048, 6144, 192, StreamStore::AddF32), (128, 3, 96));
    assert_eq!(found(4096, 12288, 192, StreamStore::AddF32), (128, 3, 96));
}

/// Every plan fits the chip and covers the weight.
#[test]
fn plans_hold_together() {
    let sizes = [8, 24, 136, 576, 1000, 2048, 5120, 49_152];
    let stores = [StreamStore::Store, StreamStore::Head];
    for (rows, inputs) in sizes.iter().flat_map(|rows| sizes.map(|inputs| (*rows, inputs))) {
        for tokens in [1, 8, 9, 33, 64, 65, 97, 128, 129, 200, 256] {
            for multiprocessors in [20, 114, 132, 144] {
                for store in stores {
                    check(StreamShape { rows, inputs, tokens, store }, multiprocessors);
                }
            }
        }
    }
}

fn check(shape: StreamShape, multiprocessors: u32) {
    let plan = stream_plan(&shape, multiprocessors).expect("a plan");
    let kernel = STREAM_KERNELS[plan.kernel];
    assert!(plan.tile_rows <= kernel.rows_max);
    assert!((2..=STAGES_MAX).contains(&plan.stages), "{shape:?} {plan:?}");
    assert!(plan.shared_bytes <= 227 * 1024, "{shape:?} {plan:?}");
    let token_tiles = shape.tokens.div_ceil(kernel.tokens);
    assert!(token_tiles == 1 || (token_tiles == 2 && kernel.tokens >= 96));
    let tiles = shape.rows.div_ceil(plan.tile_rows) * token_tiles;
    assert!(plan.blocks.is_multiple_of(plan.cluster));
    assert!(plan.cluster == 1 || plan.blocks == tiles * plan.cluster);
    assert!(plan.blocks <= tiles * plan.cluster && plan.blocks <= multiprocessors);
    // Statistics are made by whole warps, and of whole sums.
    let suits_head = kernel.has_head && plan.cluster == 1 && plan.tile_rows.is_multiple_of(16);
    assert!(shape.store != StreamStore::Head || suits_head, "{shape:?} {plan:?}");
}

#[test]
fn refused_shapes() {
    let shape = StreamShape { rows: 64, inputs: 64, tokens: 1, store: StreamStore::Store };
    let refused = |shape: StreamShape| stream_plan(&shape, 132).is_none();
    assert!(refused(StreamShape { tokens: STREAM_TOKENS_MAX + 1, ..shape }));
    assert!(refused(StreamShape { tokens: 0, ..shape }));
    assert!(refused(StreamShape { inputs: 60, ..shape }));
    assert!(refused(StreamShape { rows: 60, ..shape }));
    assert!(refused(StreamShape { rows: 24, store: StreamStore::Glu, ..shape }));
    assert!(!refused(StreamShape { rows: 61, store: StreamStore::StoreF32, ..shape }));
}
