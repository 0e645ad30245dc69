//! Sizes of the kernels of latent attention (MLA): what they take, and their shared memory.

/// Elements of a latent vector that `latent_attention_reference` takes at most.
pub const REFERENCE_LATENT_DIM_MAX: usize = 512;
/// Query heads of a tile of `latent_decode` and `latent_prefill`.
pub const LATENT_TILE_HEADS: u32 = 16;
/// Elements of a latent vector, and of its key's rotated part, that these kernels take.
pub const LATENT_TILE_DIMS: [u32; 2] = [512, 64];

/// Elements of a head that `latent_expand` makes and `prefill_attention_expanded` takes: of a key
/// without its rotated part, and of a value.
pub const EXPANDED_HEAD_DIM: u32 = 128;

/// Shared memory of a tile of so many tokens: queries, weights, maxima, and pages; `Tile` in
/// `cuda/latent_tile.cuh`.
#[must_use]
pub const fn latent_tile_bytes(tokens: u32, stages: u32) -> u32 {
    let [latent_dim, rope_dim] = LATENT_TILE_DIMS;
    let (entry, rows, page) = (2 * (latent_dim + rope_dim), tokens * LATENT_TILE_HEADS, 64);
    let column_warps = if tokens > 1 { 4 } else { 8 };
    rows * entry + rows * page * 2 + column_warps * rows * 4 + stages * page * entry
}

/// What `latent_decode` needs beside that: the pages before each row.
#[must_use]
pub const fn latent_pages_bytes(rows: u32) -> u32 {
    4 * (rows + 1)
}
