//! Configs: those that were measured, and that all of them hold together.

use super::*;

fn config(n: u32, k: u32, m: u32, epilogue: Epilogue) -> SkinnyGemmConfig {
    skinny_gemm_config(&GemmShape { m, n, k, epilogue }, 132).expect("a config")
}

/// What sweeps on an H100 found best, or within 2 % of it.
#[test]
fn qwen3_shapes() {
    let found = |n, k, m, epilogue| {
        let config = config(n, k, m, epilogue);
        (config.tile_n, config.cluster, config.blocks)
    };
    assert_eq!(found(6144, 4096, 1, Epilogue::Store), (48, 1, 128));
    assert_eq!(found(4096, 4096, 1, Epilogue::AddF32), (32, 1, 128));
    assert_eq!(found(24576, 4096, 1, Epilogue::Glu), (64, 1, 128));
    assert_eq!(found(4096, 12288, 1, Epilogue::AddF32), (32, 1, 128));
    assert_eq!(found(2048, 6144, 1, Epilogue::AddF32), (32, 2, 128));
    assert_eq!(found(2048, 2048, 8, Epilogue::AddF32), (32, 2, 128));
    assert_eq!(found(4096, 4096, 64, Epilogue::AddF32), (64, 2, 128));
    assert_eq!(found(6144, 4096, 64, Epilogue::Store), (48, 1, 128));
    assert_eq!(found(151_936, 4096, 8, Epilogue::StoreF32), (64, 1, 132));
    assert_eq!(found(6144, 4096, 96, Epilogue::Store), (48, 1, 128));
    assert_eq!(found(4096, 4096, 128, Epilogue::AddF32), (64, 2, 128));
    assert_eq!(found(6144, 4096, 256, Epilogue::Store), (128, 1, 96));
    assert_eq!(found(24576, 4096, 256, Epilogue::Glu), (192, 1, 128));
    assert_eq!(found(2048, 2048, 256, Epilogue::AddF32), (48, 1, 86));
    assert_eq!(found(2048, 6144, 192, Epilogue::AddF32), (128, 3, 96));
    assert_eq!(found(4096, 12288, 192, Epilogue::AddF32), (128, 3, 96));
}

/// Every config fits the chip and covers the weight.
#[test]
fn configs_hold_together() {
    let sizes = [8, 24, 136, 576, 1000, 2048, 5120, 49_152];
    let epilogues = [Epilogue::Store, Epilogue::LmHead];
    for (n, k) in sizes.iter().flat_map(|n| sizes.map(|k| (*n, k))) {
        for m in [1, 8, 9, 33, 64, 65, 97, 128, 129, 200, 256] {
            for multiprocessors in [20, 114, 132, 144] {
                for epilogue in epilogues {
                    check(GemmShape { m, n, k, epilogue }, multiprocessors);
                }
            }
        }
    }
}

fn check(shape: GemmShape, multiprocessors: u32) {
    let config = skinny_gemm_config(&shape, multiprocessors).expect("a config");
    let kernel = SKINNY_GEMM_KERNELS[config.kernel];
    assert!(config.tile_n <= kernel.tile_n_max);
    assert!((2..=STAGES_MAX).contains(&config.stages), "{shape:?} {config:?}");
    assert!(config.shared_bytes <= 227 * 1024, "{shape:?} {config:?}");
    let m_tiles = shape.m.div_ceil(kernel.tile_m);
    assert!(m_tiles == 1 || (m_tiles == 2 && kernel.tile_m >= 96));
    let tiles = shape.n.div_ceil(config.tile_n) * m_tiles;
    assert!(config.blocks.is_multiple_of(config.cluster));
    assert!(config.cluster == 1 || config.blocks == tiles * config.cluster);
    assert!(config.blocks <= tiles * config.cluster && config.blocks <= multiprocessors);
    // Statistics are made by whole warps, and of whole sums.
    let suits_head = kernel.has_lm_head && config.cluster == 1 && config.tile_n.is_multiple_of(16);
    assert!(shape.epilogue != Epilogue::LmHead || suits_head, "{shape:?} {config:?}");
}

#[test]
fn refused_shapes() {
    let shape = GemmShape { m: 1, n: 64, k: 64, epilogue: Epilogue::Store };
    let refused = |shape: GemmShape| skinny_gemm_config(&shape, 132).is_none();
    assert!(refused(GemmShape { m: SKINNY_GEMM_M_MAX + 1, ..shape }));
    assert!(refused(GemmShape { m: 0, ..shape }));
    assert!(refused(GemmShape { k: 60, ..shape }));
    assert!(refused(GemmShape { n: 60, ..shape }));
    assert!(refused(GemmShape { n: 24, epilogue: Epilogue::Glu, ..shape }));
    assert!(!refused(GemmShape { n: 61, epilogue: Epilogue::StoreF32, ..shape }));
}
