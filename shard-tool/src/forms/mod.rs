//! Forms in which checkpoints store matrices, turned into views: see [`crate::views`].
//!
//! | module | knows |
//! |---|---|
//! | `fused` | experts in one tensor, by the conventions of transformers, gpt-oss and llama.cpp |
//! | `latent` | the matrix that makes keys and values of latent attention |
//! | `scaled` | codes and scales in two tensors |

mod fused;
mod latent;
mod scaled;

pub(crate) use fused::{ExpertMatrix, FusedExperts, gate_up_and_down, one_by_one, stacked};
pub(crate) use latent::{LatentHeads, split_kv_b};
pub(crate) use scaled::join_fp8;

use crate::views::RowSource;
use crate::weight_map::WeightMap;
use crate::{Error, ErrorKind};

/// The rows of a tensor that must be of a shape, fastest dimension first.
fn shaped(weight_map: &WeightMap, name: &str, wanted: &[u64]) -> Result<RowSource, Error> {
    let refuse = |cause: String| Error::new(ErrorKind::Mismatch, cause).tensor(name);
    let source = weight_map.row_source(name).ok_or_else(|| refuse("it is missing".to_owned()))?;
    let shape = weight_map.tensor(name).map_or(&[][..], |info| &info.shape);
    if shape != wanted {
        return Err(refuse(format!("its shape is {shape:?}, not {wanted:?} (fastest first)")));
    }
    Ok(source)
}
