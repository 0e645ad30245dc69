//! The proof that the ranks together keep every byte of a checkpoint tensor. Pure.
//!
//! Some rank must keep each byte, and more than one rank may only where the tensor's cut says so.
//! The proof works on the very ranges that were read, and not on the numbers that they were made
//! from.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::spec::{TensorCut, TensorSpec};
use crate::{Error, ErrorKind};

/// Why more than one rank may keep a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Repeated {
    /// Exactly one rank keeps each byte.
    Never,
    /// All ranks keep the whole tensor.
    Replicated,
    /// There are more ranks than KV heads, so ranks share a head.
    SharedKvHeads,
    /// A border falls inside a quantisation block, and both neighbours keep the block.
    SharedBlocks,
}

impl Repeated {
    /// The reason that the cut of a tensor declares for one of its parts.
    pub(super) fn of(tensor: &TensorSpec, part: usize) -> Self {
        match tensor.cut {
            TensorCut::Replicated => Self::Replicated,
            TensorCut::QkvHeads if part > 0 => Self::SharedKvHeads,
            TensorCut::HeadColumns | TensorCut::FfnColumns
                if tensor.parts[part].dtype.block_elems() > 1 =>
            {
                Self::SharedBlocks
            }
            TensorCut::QkvHeads
            | TensorCut::HeadRows(_)
            | TensorCut::HeadColumns
            | TensorCut::Experts(_)
            | TensorCut::FfnRows
            | TensorCut::FfnColumns
            | TensorCut::VocabRows => Self::Never,
        }
    }
}

/// Checks that `kept`, the ranges of all ranks, cover a tensor of `bytes`. Returns the number of
/// bytes in all copies beyond the first.
pub(super) fn prove(
    name: &str,
    bytes: u64,
    mut kept: Vec<Range<u64>>,
    repeated: Repeated,
) -> Result<u64, Error> {
    let refuse =
        |cause: String, at: u64| Err(Error::new(ErrorKind::Layout, cause).tensor(name).at(at));
    kept.sort_unstable_by_key(|range| (range.start, range.end));
    let (mut end, mut copies) = (0, 0);
    for range in &kept {
        if range.start > end {
            return refuse(format!("no rank keeps its bytes {end}..{}", range.start), end);
        }
        let again = end.min(range.end) - range.start;
        if again > 0 && repeated == Repeated::Never {
            return refuse(format!("two ranks keep {again} bytes of it"), range.start);
        }
        copies += again;
        end = end.max(range.end);
    }
    if end != bytes {
        return refuse(format!("ranks keep {end} of its {bytes} bytes"), end.min(bytes));
    }
    Ok(copies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_tensors_are_covered_and_copies_counted() {
        let prove = |kept: &[Range<u64>], repeated| prove("t", 10, kept.to_vec(), repeated);
        assert_eq!(prove(&[4..10, 0..4], Repeated::Never).unwrap(), 0);
        assert_eq!(prove(&[0..10, 0..10, 0..10], Repeated::Replicated).unwrap(), 20);
        assert_eq!(prove(&[0..6, 4..10, 5..6], Repeated::SharedBlocks).unwrap(), 3);
        for (kept, repeated, says) in [
            (vec![0..4, 5..10], Repeated::Replicated, "t: no rank keeps its bytes 4..5 (byte 4)"),
            (vec![1..5, 5..10], Repeated::Never, "no rank keeps its bytes 0..1"),
            (vec![0..6, 4..10], Repeated::Never, "two ranks keep 2 bytes of it (byte 4)"),
            (vec![0..5, 5..9], Repeated::Never, "ranks keep 9 of its 10 bytes"),
            (vec![0..5, 5..11], Repeated::Never, "ranks keep 11 of its 10 bytes"),
            (vec![], Repeated::Never, "ranks keep 0 of its 10 bytes"),
        ] {
            let error = prove(&kept, repeated).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
