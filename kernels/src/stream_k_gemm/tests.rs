//! Configs: those that were measured, and that all of them hold together.

use super::*;
use crate::Target;

const H100: Chip = chip(Target::Compute80, 132, 227 << 10);
const A100: Chip = chip(Target::Sm80, 108, 163 << 10);
const RTX_4090: Chip = chip(Target::Compute80, 128, 99 << 10);

const fn chip(target: Target, multiprocessors: u32, shared_bytes_max: u32) -> Chip {
    Chip { target, multiprocessors, shared_bytes_max }
}

fn config(n: u32, k: u32, m: u32, epilogue: Epilogue) -> Option<StreamKConfig> {
    stream_k_config(&GemmShape { m, n, k, epilogue }, &H100)
}

/// What a sweep on an H100 found best, or within 5 % of it.
#[test]
fn qwen3_shapes() {
    let found = |n, k, m, epilogue| {
        let config = config(n, k, m, epilogue).expect("a config");
        (STREAM_K_KERNELS[config.kernel].variant, config.blocks)
    };
    assert_eq!(found(4096, 2048, 1, Epilogue::Store), ("n8", 256));
    assert_eq!(found(2048, 6144, 1, Epilogue::AddF32), ("n8", 128));
    assert_eq!(found(24_576, 4096, 1, Epilogue::Glu), ("n8", 256));
    assert_eq!(found(4096, 4096, 16, Epilogue::AddF32), ("n16", 128));
    assert_eq!(found(4096, 4096, 32, Epilogue::AddF32), ("n16", 256));
    assert_eq!(found(24_576, 4096, 32, Epilogue::Glu), ("n32", 192));
    assert_eq!(found(24_576, 4096, 64, Epilogue::Glu), ("n64", 192));
    assert_eq!(found(4096, 4096, 128, Epilogue::AddF32), ("n64", 256));
    assert_eq!(found(24_576, 4096, 128, Epilogue::Glu), ("n128", 384));
    assert_eq!(found(4096, 12_288, 256, Epilogue::AddF32), ("n128", 384));
}

/// Every config fits its chip, covers the weight, and no block is without work.
#[test]
fn configs_hold_together() {
    let sizes = [8, 24, 136, 576, 1000, 2048, 5120, 49_152];
    for (n, k) in sizes.iter().flat_map(|n| sizes.map(|k| (*n, k))) {
        for (m, chip) in [1, 8, 9, 33, 64, 65, 97, 128, 129, 200, 256]
            .into_iter()
            .flat_map(|m| [H100, A100, RTX_4090].map(|chip| (m, chip)))
        {
            for epilogue in [Epilogue::Store, Epilogue::Glu] {
                let shape = GemmShape { m, n, k, epilogue };
                let config = stream_k_config(&shape, &chip).expect("a config");
                let kernel = STREAM_K_KERNELS[config.kernel];
                let work = Work::new(&kernel, &shape);
                assert!(work.m_tiles <= 2 && work.m_tiles * kernel.tile_m >= m);
                let covered = work.n_tiles * kernel.tile_n;
                assert!(covered >= n && covered - n < kernel.tile_n, "{shape:?} {config:?}");
                assert!((1..=work.tiles() * work.chunks).contains(&config.blocks));
                assert!(config.blocks <= kernel.blocks_at_once(&chip), "{shape:?} {config:?}");
                assert!(config.blocks <= chip.blocks_max());
                let partials = 2 * config.blocks as usize * kernel.sum_bytes() as usize;
                assert!(partials <= chip.partial_bytes_max());
            }
        }
    }
}

#[test]
fn every_gpu_has_the_shared_memory() {
    for kernel in STREAM_K_KERNELS {
        assert!(kernel.shared_bytes() <= 99 << 10, "{kernel:?}");
        assert!(kernel.blocks_at_once(&RTX_4090) >= 128, "{kernel:?}");
    }
}

#[test]
fn refused_shapes() {
    let taken = |n, k, m, epilogue| config(n, k, m, epilogue).is_some();
    assert!(!taken(64, 64, STREAM_K_M_MAX + 1, Epilogue::Store));
    assert!(!taken(64, 64, 0, Epilogue::Store));
    assert!(!taken(64, 60, 1, Epilogue::Store));
    assert!(!taken(0, 64, 1, Epilogue::Store));
    assert!(!taken(61, 64, 1, Epilogue::Glu));
    assert!(taken(61, 64, 1, Epilogue::Store) && taken(62, 8, 1, Epilogue::Glu));
    let old = chip(Target::Compute80, 80, 48 << 10);
    let shape = GemmShape { m: 1, n: 64, k: 64, epilogue: Epilogue::Store };
    assert_eq!(stream_k_config(&shape, &old), None);
}
