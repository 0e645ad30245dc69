//! Plans: those that were measured, and that all of them hold together.

use super::*;

const H100: Chip = Chip { multiprocessors: 132, shared_bytes_max: 227 << 10 };
const A100: Chip = Chip { multiprocessors: 108, shared_bytes_max: 163 << 10 };
const RTX_4090: Chip = Chip { multiprocessors: 128, shared_bytes_max: 99 << 10 };

fn plan(rows: u32, inputs: u32, tokens: u32, store: StreamStore) -> Option<NarrowPlan> {
    narrow_plan(&StreamShape { rows, inputs, tokens, store }, &H100)
}

/// What a sweep on an H100 found best, or within 5 % of it.
#[test]
fn qwen3_shapes() {
    let found = |rows, inputs, tokens, store| {
        let plan = plan(rows, inputs, tokens, store).expect("a plan");
        (NARROW_KERNELS[plan.kernel].variant, plan.blocks)
    };
    assert_eq!(found(4096, 2048, 1, StreamStore::Store), ("n8", 256));
    assert_eq!(found(2048, 6144, 1, StreamStore::AddF32), ("n8", 128));
    assert_eq!(found(24_576, 4096, 1, StreamStore::Glu), ("n8", 256));
    assert_eq!(found(4096, 4096, 16, StreamStore::AddF32), ("n16", 128));
    assert_eq!(found(4096, 4096, 32, StreamStore::AddF32), ("n16", 256));
    assert_eq!(found(24_576, 4096, 32, StreamStore::Glu), ("n32", 192));
    assert_eq!(found(24_576, 4096, 64, StreamStore::Glu), ("n64", 192));
    assert_eq!(found(4096, 4096, 128, StreamStore::AddF32), ("n64", 256));
    assert_eq!(found(24_576, 4096, 128, StreamStore::Glu), ("n128", 384));
    assert_eq!(found(4096, 12_288, 256, StreamStore::AddF32), ("n128", 384));
}

/// Every plan fits its chip, covers the weight, and no block is without work.
#[test]
fn plans_hold_together() {
    let sizes = [8, 24, 136, 576, 1000, 2048, 5120, 49_152];
    for (rows, inputs) in sizes.iter().flat_map(|rows| sizes.map(|inputs| (*rows, inputs))) {
        for (tokens, chip) in [1, 8, 9, 33, 64, 65, 97, 128, 129, 200, 256]
            .into_iter()
            .flat_map(|tokens| [H100, A100, RTX_4090].map(|chip| (tokens, chip)))
        {
            for store in [StreamStore::Store, StreamStore::Glu] {
                let shape = StreamShape { rows, inputs, tokens, store };
                let plan = narrow_plan(&shape, &chip).expect("a plan");
                let kernel = NARROW_KERNELS[plan.kernel];
                let work = Work::new(&kernel, &shape);
                assert!(work.token_tiles <= 2 && work.token_tiles * kernel.tokens >= tokens);
                let covered = work.row_tiles * kernel.rows;
                assert!(covered >= rows && covered - rows < kernel.rows, "{shape:?} {plan:?}");
                assert!((1..=work.tiles() * work.chunks).contains(&plan.blocks));
                assert!(plan.blocks <= kernel.blocks_at_once(&chip), "{shape:?} {plan:?}");
                assert!(plan.blocks <= chip.blocks_max());
                let pieces = 2 * plan.blocks as usize * kernel.sum_bytes() as usize;
                assert!(pieces <= chip.piece_bytes_max());
            }
        }
    }
}

#[test]
fn every_gpu_has_the_shared_memory() {
    for kernel in NARROW_KERNELS {
        assert!(kernel.shared_bytes() <= 99 << 10, "{kernel:?}");
        assert!(kernel.blocks_at_once(&RTX_4090) >= 128, "{kernel:?}");
    }
}

#[test]
fn refused_shapes() {
    let taken = |rows, inputs, tokens, store| plan(rows, inputs, tokens, store).is_some();
    assert!(!taken(64, 64, NARROW_TOKENS_MAX + 1, StreamStore::Store));
    assert!(!taken(64, 64, 0, StreamStore::Store));
    assert!(!taken(64, 60, 1, StreamStore::Store));
    assert!(!taken(0, 64, 1, StreamStore::Store));
    assert!(!taken(61, 64, 1, StreamStore::Glu));
    assert!(taken(61, 64, 1, StreamStore::Store) && taken(62, 8, 1, StreamStore::Glu));
    let old = Chip { multiprocessors: 80, shared_bytes_max: 48 << 10 };
    let shape = StreamShape { rows: 64, inputs: 64, tokens: 1, store: StreamStore::Store };
    assert_eq!(narrow_plan(&shape, &old), None);
}
