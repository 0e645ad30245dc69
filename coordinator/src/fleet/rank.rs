//! Ranks as indices and as ids.

use binfer_proto::Rank;

/// The id of the rank with this index. There are few ranks: an index beyond `u32` cannot occur.
pub(crate) fn rank_id(index: usize) -> Rank {
    Rank(u32::try_from(index).unwrap_or(u32::MAX))
}
