//! How large random weights are (`--load-format dummy`), the same on every device.
//!
//! A mixture of experts is to be measured with its tokens spread over its experts, as real text
//! spreads them. Random rows of a router do that as long as tokens differ: so embeddings are large
//! beside what layers add to them, and vectors that are added to every token, biases among them,
//! are next to nothing.

use binfer_shard::LocalTensor;
use binfer_shard::spec::TensorCut;

/// What the elements of a random tensor are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RandomElements {
    /// Ones: the scale of a norm.
    Ones,
    /// Numbers within so much of 0.
    Within(f32),
}

impl RandomElements {
    /// Those of `tensor`.
    pub(super) fn of(tensor: &LocalTensor) -> Self {
        if tensor.rows() == 1 {
            return Self::Ones;
        }
        if tensor.cols() == 1 {
            return Self::Within(1e-9);
        }
        let is_embedding = tensor.cut == TensorCut::VocabRows && tensor.name == "embed";
        Self::Within(if is_embedding { 1.0 } else { 0.03 })
    }
}
