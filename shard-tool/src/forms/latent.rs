//! The matrix that makes keys and values of latent attention, head by head.

use super::shaped;
use crate::Error;
use crate::views::{Pick, View};
use crate::weight_map::WeightMap;

/// The widths of latent attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LatentHeads {
    pub(crate) heads: u64,
    pub(crate) nope: u64,
    pub(crate) value: u64,
    pub(crate) latent: u64,
}

/// Offers the tensor `name`, `[heads * (nope + value), latent]`, as `keys`, of each head the
/// transposed part that makes keys, and `values`. Scaled and packed types become F32, since a
/// transposed block is no block.
pub(crate) fn split_kv_b(
    weight_map: &mut WeightMap,
    name: &str,
    [keys, values]: [String; 2],
    dims: LatentHeads,
) -> Result<(), Error> {
    let LatentHeads { heads, nope, value, latent } = dims;
    let (first, stride) = (0, nope + value);
    let source = shaped(weight_map, name, &[latent, heads * stride])?;
    let transposed = Pick::Columns { first, block: latent, stride, col: 0, col_step: 1 };
    let views = vec![
        View::new(keys, source.clone(), transposed, [heads * latent, nope])?,
        View::new(
            values,
            source.clone(),
            Pick::Rows { first: nope, run: value, stride },
            [heads * value, latent],
        )?,
    ];
    weight_map.split(name, &source, views)
}
